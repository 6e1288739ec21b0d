"""Convolutions of every kind as kinds of base weight. Which entries of the input a row holds is written down here once
more, index by index, from the definition: an input i meets an output o at the place k of the kernel where

    i = o stride - padding + k dilation        (convolution)
    o = i stride - padding + k dilation        (transposed)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.testing.kinds import Kind


def _outputs(conv: Any, sizes: tuple[int, ...]) -> Iterator[range]:
    """The outputs along each dimension."""
    more = conv.output_padding if conv.transposed else (0,) * len(sizes)
    for s, k, step, pad, d, extra in zip(
        sizes, conv.kernel_size, conv.stride, conv.padding, conv.dilation, more, strict=True
    ):
        reach = d * (k - 1) + 1
        yield range((s - 1) * step - 2 * pad + reach + extra if conv.transposed else (s + 2 * pad - reach) // step + 1)


def _input(conv: Any, o: int, k: int, dim: int) -> int | None:
    """Which input meets an output along a dimension; None where none does."""
    step, pad, d = (int(of[dim]) for of in (conv.stride, conv.padding, conv.dilation))
    if not conv.transposed:
        return o * step - pad + k * d
    at, rest = divmod(o + pad - k * d, step)
    return None if rest else at


@cache
def _table(how: tuple[Any, ...], sizes: tuple[int, ...]) -> Tensor:
    """(positions, kernel): the number of the input that a row has there, the number of inputs where it has none."""
    conv: Any = SimpleNamespace(**dict(how))
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    none = math.prod(sizes)

    def number(o: tuple[int, ...], k: tuple[int, ...]) -> int:
        at = [_input(conv, a, b, dim) for dim, (a, b) in enumerate(zip(o, k, strict=True))]
        inside = all(i is not None and 0 <= i < s for i, s in zip(at, sizes, strict=True))
        return sum((i or 0) * step for i, step in zip(at, strides, strict=True)) if inside else none

    kernel = list(itertools.product(*map(range, conv.kernel_size)))
    return torch.tensor([[number(o, k) for k in kernel] for o in itertools.product(*_outputs(conv, sizes))])


def _rows(conv: Any, x: Tensor) -> Tensor:
    """x (b, c, *sizes) -> (b, positions, c * kernel); of a convolution in groups (b, positions, groups, n)."""
    names = ("kernel_size", "stride", "padding", "dilation", "transposed", "output_padding")
    table = _table(tuple((name, getattr(conv, name)) for name in names), tuple(x.shape[2:]))
    held = torch.cat([x.flatten(2), x.new_zeros(*x.shape[:2], 1)], 2)
    rows = held[:, :, table].movedim(1, 2)  # (b, positions, c, kernel)
    return rows.flatten(2) if conv.groups == 1 else rows.unflatten(2, (conv.groups, -1)).flatten(3)


def _matrix(conv: Any) -> Tensor:
    """W (n, m), of groups side by side."""
    groups = conv.weight.chunk(conv.groups)
    if conv.transposed:
        return torch.cat([w.movedim(1, -1).reshape(-1, w.shape[1]) for w in groups], 1)
    return torch.cat([w.reshape(len(w), -1).T for w in groups], 1)


def _own(conv: Any, y: Tensor) -> Tensor:
    """Of rows (b, positions, groups, m) the columns of each group."""
    if conv.groups == 1:
        return y
    each = y.unflatten(-1, (conv.groups, -1))
    return torch.cat([each[:, :, g, g] for g in range(conv.groups)], -1)


def _kind(name: str, layer: type[nn.Module], sizes: tuple[int, ...], kernel: tuple[int, ...], **how: Any) -> Kind:
    """18 inputs a row, 10 outputs."""
    channels = 18 // math.prod(kernel) * how.get("groups", 1)

    def inputs(b: int) -> Tensor:
        return torch.randn(b, channels, *sizes)

    def outputs(y: Tensor) -> Tensor:
        return y.flatten(2).transpose(1, 2)

    return Kind(name, partial(layer, channels, 10, kernel, **how), inputs, _matrix, _rows, outputs, _own)


CONVOLUTIONS = [
    _kind("conv1d_torch", nn.Conv1d, (9,), (3,), stride=2, padding=2, dilation=2),
    _kind("conv3d", nn.Conv3d, (4, 3, 4), (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1), bias=False),
    _kind("conv_transposed1d", nn.ConvTranspose1d, (5,), (3,), stride=2, padding=1, output_padding=1, dilation=2),
    _kind("conv_transposed2d", nn.ConvTranspose2d, (4, 3), (2, 3), stride=(2, 1), padding=(0, 1)),
    _kind("conv_grouped", nn.Conv2d, (5, 4), (3, 2), groups=2, padding=1),
    _kind("conv_transposed_grouped", nn.ConvTranspose1d, (5,), (3,), groups=2, stride=2),
]
