"""nn.Conv2d: W = weight flattened and transposed, rows are the patches, n = in * kh * kw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.algebra.precision import once
from subspace_tuning.algebra.sparse import times_sparse
from subspace_tuning.weights.layer import LayerWeight, Unsupported


class Patches:
    """The rows of a convolution: x (b, c, h, w), one row of c * kh * kw entries per output position."""

    def __init__(self, x: Tensor, conv: nn.Conv2d):
        self.x, self.conv, self.dtype = x, conv, x.dtype
        c, (kh, kw) = conv.in_channels, conv.kernel_size
        self.shape = (x.shape[0], *self._positions(x), c * kh * kw)

    def _positions(self, x: Tensor) -> tuple[int, int]:
        c = self.conv
        ph, pw = c.padding if isinstance(c.padding, tuple) else _padding_of(c)
        sizes = zip(x.shape[2:], (ph, pw), c.dilation, c.kernel_size, c.stride, strict=True)
        h, w = ((s + 2 * p - d * (k - 1) - 1) // st + 1 for s, p, d, k, st in sizes)
        return h, w

    def __matmul__(self, M: Tensor) -> Tensor:
        c = self.conv
        kernel = M.T.reshape(M.shape[1], c.in_channels, *c.kernel_size)
        return F.conv2d(self.x, kernel, None, c.stride, c.padding, c.dilation).movedim(1, -1)

    def unfold(self) -> Tensor:
        c = self.conv
        padding = c.padding if isinstance(c.padding, tuple) else _padding_of(c)
        cols = F.unfold(self.x, c.kernel_size, c.dilation, padding, c.stride)  # (b, n, positions)
        return cols.transpose(1, 2).reshape(self.shape)

    def __mul__(self, d: Tensor) -> Tensor:
        rows = self.unfold()
        return once(torch.mul, rows, d, like=rows)

    def times_sparse(self, places: Tensor, values: Tensor, m: int) -> Tensor:
        return times_sparse(self.unfold(), places, values, m)

    def map(self, h: Callable[[Tensor], Tensor]) -> Patches:
        """h of the entries, with h(0) = 0 so that padding stays padding."""
        return Patches(h(self.x), self.conv)


def _padding_of(conv: nn.Conv2d) -> tuple[int, int]:
    if conv.padding == "valid":
        return 0, 0
    h, w = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    if h % 2 or w % 2:
        raise Unsupported(f"padding 'same' with kernel {conv.kernel_size} is uneven; give the padding as numbers")
    return h // 2, w // 2


class Conv2dWeight(LayerWeight):
    plain = nn.Conv2d

    @staticmethod
    def over_patches(layer: nn.Conv2d) -> bool:
        """Whether the convolution is one weight that meets every patch."""
        return layer.groups == 1 and layer.padding_mode == "zeros"

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        if not Conv2dWeight.over_patches(layer):
            raise Unsupported(
                f"a Conv2d with groups={layer.groups} and padding_mode={layer.padding_mode!r} is not one weight over "
                "patches; methods sit on convolutions with groups=1 and zero padding"
            )
        kh, kw = layer.kernel_size
        return layer.in_channels * kh * kw, layer.out_channels

    def dense(self) -> Tensor:
        return self.layer.weight.flatten(1).T

    def as_stored(self, W: Tensor) -> Tensor:
        return W.T.reshape(self.layer.weight.shape)

    def rows(self, x: Tensor) -> Patches:
        return Patches(x, self.layer)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Patches):
            return self.layer(x.x).movedim(1, -1)
        return F.linear(x, self.layer.weight.flatten(1).to(x.dtype), self.own_bias)

    def without_bias(self, x: Any) -> Tensor:
        if isinstance(x, Patches):
            return self.layer._conv_forward(x.x, self.layer.weight, None).movedim(1, -1)
        return F.linear(x, self.layer.weight.flatten(1).to(x.dtype))

    def finish(self, y: Tensor) -> Tensor:
        return y.movedim(-1, 1)

    def unfinish(self, y: Tensor) -> Tensor:
        return y.movedim(1, -1)
