"""A matrix over and over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra.expr import Expr, Leaf
from subspace_tuning.algebra.planner import Factor


class Repeated(Expr):
    """[D; D; ...] in R^{n x m} for D (r, m), the last of them cut off: rows add up their pieces of length r first."""

    def __init__(self, D: Expr, n: int):
        self.D = D
        self.shape = (n, D.shape[1])

    def leaves(self) -> Iterable[Leaf]:
        return self.D.leaves()

    def dense(self) -> Tensor:
        (n, _), D = self.shape, self.D.dense()
        return D.repeat(-(-n // len(D)), 1)[:n]

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        (n, _), r = self.shape, self.D.shape[0]
        return self.D.apply(pad(x, (0, -n % r)).unflatten(-1, (-1, r)).sum(-2), bias)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        (n, m), r = self.shape, self.D.shape[0]
        if r >= min(n, m):
            return None
        D = self.D.dense()
        return torch.eye(r, dtype=D.dtype, device=D.device).repeat(-(-n // r), 1)[:n], D

    def as_factor(self, training: bool) -> Factor:
        n, m = self.shape
        steps = (Factor("diag", n, n), self.D.as_factor(training))
        return Factor.sum(steps, n, m, trainable=self.trainable if training else 0)
