"""A bias between factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.frozen import NotALinearMap
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import once


class Shift(Leaf):
    """x -> x + b, b (n,): a map of the rows that no matrix stands for."""

    linear = False

    def __init__(self, b: Tensor | Live):
        self.numbers = b
        self.shape = (b.shape[0], b.shape[0])

    def dense(self) -> Tensor:
        raise NotALinearMap("x -> x + b is not a product with a weight: it cannot be merged, exported or fitted")

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        y = once(torch.add, x, now(self.numbers), like=x)
        return y if bias is None else once(torch.add, y, bias, like=y)

    @property
    def trainable(self) -> int:
        return self.numbers.numel() if self.numbers.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        return Factor.sum((Factor("diag", *self.shape),), *self.shape, self.trainable if training else 0)
