"""Factors that are held as their numbers: small matrices and diagonals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Expr, Leaf, Operand
from subspace_tuning.algebra.kernels import added_product, scaled
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus


def matrix(operand: Operand) -> Expr:
    """Read a two-dimensional tensor as a ``Dense`` expression; leave expressions as they are."""
    return operand if isinstance(operand, Expr) else Dense(operand)


class Dense(Leaf):
    """A matrix held as its numbers: a factor such as A (n, r), or singular vectors."""

    def __init__(self, M: Tensor | Live):
        if M.dim() != 2:
            raise ValueError(f"a matrix has two dimensions, got a tensor of shape {tuple(M.shape)}")
        self.numbers = M
        self.shape = (M.shape[0], M.shape[1])

    @property
    def M(self) -> Tensor:
        return now(self.numbers)

    def dense(self) -> Tensor:
        return self.M

    def apply(self, x: Any, bias: Tensor | None = None, scale: float = 1.0) -> Tensor:
        M = now(self.numbers)
        if M.dtype != x.dtype:
            M = M.to(x.dtype)
        if isinstance(x, Tensor):
            return added_product(x, M, bias, scale)
        return plus(x @ M if scale == 1.0 else scale * (x @ M), bias)

    @property
    def trainable(self) -> int:
        return self.numbers.numel() if self.numbers.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        return Factor("dense", *self.shape, trainable=self.trainable if training else 0)


class Diag(Leaf):
    """A diagonal matrix, held as its diagonal d (n,)."""

    def __init__(self, d: Tensor | Live):
        self.numbers = d
        self.shape = (d.shape[0], d.shape[0])

    @property
    def d(self) -> Tensor:
        return now(self.numbers)

    def dense(self) -> Tensor:
        return torch.diag(self.d)

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        return scaled(x, self.d, bias) if isinstance(x, Tensor) else x * self.d

    @property
    def trainable(self) -> int:
        return self.numbers.numel() if self.numbers.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        return Factor("diag", *self.shape, trainable=self.trainable if training else 0)
