"""nn.ConvTranspose1d, 2d, 3d: rows are the patches of x with zeros between its entries, n = in * kernel, m = out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.weights.conv import ConvolutionWeight, Patches, dims, rows_of, windows

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Any) -> Tensor:
    """What a transposed convolution makes of x with another weight and bias."""
    how = (conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation)
    return CONVOLVE[dims(conv)](x, weight, bias, *how)


class Stuffed(Patches):
    """The rows of a transposed convolution: for each output position, the entries of x that come to it, else zeros."""

    def _positions(self) -> list[int]:
        c = self.conv
        sizes = zip(
            *(self.x.shape[-dims(c) :], c.stride, c.padding, c.dilation, c.kernel_size, c.output_padding), strict=True
        )
        return [(s - 1) * step - 2 * pad + d * (k - 1) + more + 1 for s, step, pad, d, k, more in sizes]

    def __matmul__(self, M: Tensor) -> Tensor:
        return rows_of(convolve(self.x, stored(M, self.conv), None, self.conv), self.conv)

    def unfold(self) -> Tensor:
        c, x = self.conv, self.x
        d, pads = dims(c), list[int]()
        for step, pad, dilated, k, more in zip(
            c.stride, c.padding, c.dilation, c.kernel_size, c.output_padding, strict=True
        ):
            x = x.movedim(-d, -1)  # the sizes take turns at the end
            x = F.pad(x.unsqueeze(-1), (0, step - 1)).flatten(-2)[..., : (x.shape[-1] - 1) * step + 1]
            reach = dilated * (k - 1) - pad
            pads = [reach, reach + more, *pads]
        rows = windows(F.pad(x, pads), c.kernel_size, (1,) * d, c.dilation)
        kernels = rows.unflatten(-1, (c.in_channels, *c.kernel_size))
        return kernels.flip(*range(-d, 0)).flatten(-d - 1)


def stored(W: Tensor, conv: Any) -> Tensor:
    """W (in * kernel, m) as (in, m, *kernel)."""
    return W.unflatten(0, (conv.in_channels, *conv.kernel_size)).movedim(-1, 1)


class TransposedWeight(ConvolutionWeight):
    plain = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.in_channels * math.prod(layer.kernel_size), layer.out_channels

    def dense(self) -> Tensor:
        return self.layer.weight.movedim(1, -1).flatten(0, -2)

    def as_stored(self, W: Tensor) -> Tensor:
        return stored(W, self.layer)

    def rows(self, x: Tensor) -> Stuffed:
        return Stuffed(x, self.layer)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Stuffed):
            return rows_of(self.layer(x.x), self.layer)
        return F.linear(x, self.dense().T.to(x.dtype), self.own_bias)

    def without_bias(self, x: Any) -> Tensor:
        if isinstance(x, Stuffed):
            return rows_of(convolve(x.x, self.layer.weight, None, self.layer), self.layer)
        return F.linear(x, self.dense().T.to(x.dtype))
