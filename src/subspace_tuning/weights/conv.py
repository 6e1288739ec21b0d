"""nn.Conv1d, Conv2d, Conv3d: W = weight flattened and transposed, rows are the patches, n = in * kernel, m = out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.algebra.precision import once
from subspace_tuning.algebra.sparse import times_sparse
from subspace_tuning.weights.layer import LayerWeight


class Patches:
    """The rows of a convolution: x (..., c, *sizes), one row of c * kernel entries per output position."""

    def __init__(self, x: Tensor, conv: Any):
        self.x, self.conv, self.dtype = x, conv, x.dtype
        self.shape = (*x.shape[: -1 - dims(conv)], *self._positions(), conv.in_channels * math.prod(conv.kernel_size))

    def _positions(self) -> list[int]:
        c, pads = self.conv, self.conv._reversed_padding_repeated_twice[::-1]
        sizes = zip(self.x.shape[-dims(c) :], pads[::2], pads[1::2], c.dilation, c.kernel_size, c.stride, strict=True)
        return [(s + right + left - d * (k - 1) - 1) // step + 1 for s, right, left, d, k, step in sizes]

    def __matmul__(self, M: Tensor) -> Tensor:
        """x M for M (n, r): a convolution with r outputs."""
        kernel = M.T.reshape(M.shape[1], self.conv.in_channels, *self.conv.kernel_size)
        return rows_of(self.conv._conv_forward(self.x, kernel, None), self.conv)

    def unfold(self) -> Tensor:
        c = self.conv
        mode = "constant" if c.padding_mode == "zeros" else c.padding_mode
        return windows(F.pad(self.x, c._reversed_padding_repeated_twice, mode), c.kernel_size, c.stride, c.dilation)

    def __mul__(self, d: Tensor) -> Tensor:
        rows = self.unfold()
        return once(torch.mul, rows, d, like=rows)

    def times_sparse(self, places: Tensor, values: Tensor, m: int) -> Tensor:
        return times_sparse(self.unfold(), places, values, m)

    def map(self, h: Callable[[Tensor], Tensor]) -> Patches:
        """h of the entries, with h(0) = 0 so that padding stays padding."""
        return type(self)(h(self.x), self.conv)


def windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """The patches of x (..., c, *sizes) as rows (..., *positions, c * kernel)."""
    d = len(kernel)
    for k, step, dilated in zip(kernel, stride, dilation, strict=True):
        x = x.unfold(-d, dilated * (k - 1) + 1, step)[..., ::dilated]  # the next size is then the d-th from the end
    return x.movedim(-2 * d - 1, -d - 1).flatten(-d - 1)


def dims(conv: Any) -> int:
    """How many dimensions a convolution goes along."""
    return len(conv.kernel_size)


def rows_of(y: Tensor, conv: Any) -> Tensor:
    """(..., m, *positions) as rows (..., *positions, m)."""
    return y.movedim(-1 - dims(conv), -1)


class ConvolutionWeight(LayerWeight):
    """What all convolutions have in common: channels stand before positions."""

    def finish(self, y: Tensor) -> Tensor:
        return y.movedim(-1, -1 - dims(self.layer))

    def unfinish(self, y: Tensor) -> Tensor:
        return rows_of(y, self.layer)


class ConvWeight(ConvolutionWeight):
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.in_channels * math.prod(layer.kernel_size), layer.out_channels

    def dense(self) -> Tensor:
        return self.layer.weight.flatten(1).T

    def as_stored(self, W: Tensor) -> Tensor:
        return W.T.reshape(self.layer.weight.shape)

    def rows(self, x: Tensor) -> Patches:
        return Patches(x, self.layer)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Patches):
            return rows_of(self.layer(x.x), self.layer)
        return F.linear(x, self.dense().T.to(x.dtype), self.own_bias)

    def without_bias(self, x: Any) -> Tensor:
        if isinstance(x, Patches):
            return rows_of(self.layer._conv_forward(x.x, self.layer.weight, None), self.layer)
        return F.linear(x, self.dense().T.to(x.dtype))
