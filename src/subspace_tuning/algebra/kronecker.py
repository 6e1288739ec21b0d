"""Kronecker products."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Expr, Leaf
from subspace_tuning.algebra.kernels import scaled
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide


class Kronecker(Expr):
    """C (x) D: C (n1, m1), D (n2, m2); row i1 n2 + i2, column j1 m2 + j2 holds C[i1, j1] D[i2, j2].

    x, read as n1 rows of length n2, meets D on the right and C^T on the left, the cheaper first.
    """

    def __init__(self, C: Expr, D: Expr):
        self.C, self.D = C, D
        self.shape = (C.shape[0] * D.shape[0], C.shape[1] * D.shape[1])

    def leaves(self) -> Iterable[Leaf]:
        return (*self.C.leaves(), *self.D.leaves())

    def dense(self) -> Tensor:
        return torch.kron(wide(self.C.dense()).contiguous(), wide(self.D.dense()).contiguous())

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        x = x.unflatten(-1, (self.C.shape[0], self.D.shape[0]))
        y = (self._left(self.D.apply(x)) if self._right_first() else self.D.apply(self._left(x))).flatten(-2)
        return plus(y, bias)

    def _left(self, x: Tensor) -> Tensor:
        """C^T times (..., n1, k)."""
        if self.C.shape == (1, 1):  # no matrix, whose entries would be rounded each by itself: a scale
            return scaled(x.mT, wide(self.C.dense()).flatten(), None).mT
        return self.C.apply(x.mT).mT

    def _right_first(self) -> bool:
        (n1, m1), (n2, m2) = self.C.shape, self.D.shape
        return n1 * m2 * (n2 + m1) <= m1 * n2 * (n1 + m2)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        own, (n1, m1) = self.D.factors(), self.C.shape
        if own is None or min(n1, m1) * own[0].shape[1] >= min(self.shape):
            return None
        (L, R), C = own, self.C.dense()
        eye = torch.eye(min(n1, m1), dtype=C.dtype, device=C.device)
        left, right = (C, eye) if m1 < n1 else (eye, C)
        return torch.kron(left.contiguous(), L.contiguous()), torch.kron(right.contiguous(), R.contiguous())

    def as_factor(self, training: bool) -> Factor:
        (n1, m1), (n2, m2) = self.C.shape, self.D.shape
        on_right, on_left = (n1, m2) if self._right_first() else (m1, n2)
        trainable = self.trainable if training else 0
        steps = (Factor("opaque", n2 * on_right, m2), Factor("opaque", n1 * on_left, m1))
        return Factor.sum(steps, *self.shape, trainable=trainable)
