"""Convolutions in groups, transposed ones too: W in R^{n x m} holds the weights of all groups side by side.

n = in / groups * kernel, m = out: the columns of a group meet the patches of its own channels only, so that no row
meets all of W. phi(W) is built whole, which is little: a group has no more than its share of the channels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.weights.conv import ConvolutionWeight, rows_of
from subspace_tuning.weights.conv_transposed import convolve


class Whole(NamedTuple):
    """An input in the layer's own layout, of which no rows are made."""

    x: Tensor


class GroupedWeight(ConvolutionWeight):
    built = True

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.in_channels // layer.groups * math.prod(layer.kernel_size), layer.out_channels

    def dense(self) -> Tensor:
        own = self.layer.weight
        if not self.layer.transposed:  # (out, in / groups, *kernel)
            return own.flatten(1).T
        each = own.unflatten(0, (self.layer.groups, -1))  # (groups, in / groups, out / groups, *kernel)
        return each.movedim((0, 2), (-2, -1)).flatten(-2).flatten(0, -2)

    def as_stored(self, W: Tensor) -> Tensor:
        c = self.layer
        if not c.transposed:
            return W.T.reshape(c.weight.shape)
        each = W.unflatten(1, (c.groups, -1)).unflatten(0, (-1, *c.kernel_size))
        return each.movedim((-2, -1), (0, 2)).flatten(0, 1)

    def rows(self, x: Tensor) -> Whole:
        return Whole(x)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Whole):
            return rows_of(self.layer(x.x), self.layer)
        return F.linear(x, self.dense().T.to(x.dtype), self.own_bias)

    def meet_built(self, x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
        conv, weight = self.layer, self.as_stored(W)
        y = convolve(x, weight, bias, conv) if conv.transposed else conv._conv_forward(x, weight, bias)
        return rows_of(y, conv)
