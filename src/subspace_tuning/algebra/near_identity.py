"""The identity and a thin product."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Expr, Leaf
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide


class NearIdentity(Expr):
    """I + L R in R^{n x n}, L (n, k), R (k, n)."""

    def __init__(self, L: Expr, R: Expr):
        self.L, self.R = L, R
        self.shape = (L.shape[0], R.shape[1])

    def leaves(self) -> Iterable[Leaf]:
        return (*self.L.leaves(), *self.R.leaves())

    def dense(self) -> Tensor:
        M = wide(self.L.dense()) @ wide(self.R.dense())
        return M + torch.eye(len(M), dtype=M.dtype, device=M.device)

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        whole = x if isinstance(x, Tensor) else x.unfold()
        return plus(self.R.apply(self.L.apply(x), whole), bias)

    def as_factor(self, training: bool) -> Factor:
        inner = (self.L.as_factor(training), self.R.as_factor(training))
        return Factor.sum(inner, *self.shape, trainable=self.trainable if training else 0)
