"""Element-wise products of a matrix with a low-rank one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Expr, Leaf
from subspace_tuning.algebra.factors import Dense
from subspace_tuning.algebra.live import Live
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide


class Hadamard(Expr):
    """E o h(A B): E (n, m), A (n, r), B (r, m); without h it is E o (A B).

    Rows meet it in one of two ways, whichever takes fewer floating-point operations: the sum over k of
    ((x * A_k) E) * B_k, which passes r times through E and forms nothing of its size (few rows, and one-hot rows), or
    x times the n x m matrix itself, whose gradient in training is n x m too (a batch).
    """

    def __init__(self, E: Expr, A: Expr, B: Expr, h: Callable[[Tensor], Tensor] | None = None):
        if E.shape != (A.shape[0], B.shape[1]) or A.shape[1] != B.shape[0]:
            raise ValueError(f"cannot take {E.shape} element-wise times {A.shape} @ {B.shape}: sizes differ")
        self.E, self.A, self.B, self.h = E, A, B, h
        self.shape = E.shape

    def leaves(self) -> Iterable[Leaf]:
        return (*self.E.leaves(), *self.A.leaves(), *self.B.leaves())

    def dense(self) -> Tensor:
        A, B = self.A.dense(), self.B.dense()
        M = wide(A) @ wide(B)
        return self.E.dense() * (M if self.h is None else self.h(M))

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        if not self._by_rows(x):
            return Dense(self.dense()).apply(x, bias)
        A, B = self.A.dense().to(x.dtype), self.B.dense().to(x.dtype)
        if isinstance(x, Tensor):
            y = (self.E.apply(x.unsqueeze(-2) * A.T) * B).sum(-2)
        else:
            y = torch.stack([self.E.apply(x * a) * b for a, b in zip(A.unbind(1), B.unbind(0), strict=True)]).sum(0)
        return plus(y, bias)

    def _by_rows(self, x: Any) -> bool:
        if self.h is not None:
            return False
        if getattr(x, "one_hot", False):
            return True
        if torch.compiler.is_compiling():
            return False
        training = torch.is_grad_enabled() and self.trainable > 0
        tokens = math.prod(x.shape[:-1])
        return self._flops_by_rows(tokens, training) < self._flops_rebuilt(tokens, training)

    def _flops_by_rows(self, tokens: int, training: bool) -> int:
        r = self.A.shape[1]
        once = tokens * r * sum(self.shape)
        return self.E.as_factor(training).on_rows(tokens * r, training) + once * (3 if training else 1)

    def _flops_rebuilt(self, tokens: int, training: bool) -> int:
        n, m = self.shape
        r = self.A.shape[1]
        return (2 * n * m * (r + tokens) + n * m) * (3 if training else 1)

    def as_factor(self, training: bool) -> Factor:
        inner = (Factor("dense", *self.shape, trainable=self.trainable if training else 0),)
        return Factor.sum(inner, *self.shape, trainable=self.trainable if training else 0)


def khatri_rao(A1: Expr, A2: Expr) -> Dense:
    """The columns of all products A1_i * A2_j: (n, r1), (n, r2) -> (n, r1 r2).

    (A1 B1) o (A2 B2) = khatri_rao(A1, A2) @ khatri_rao(B1^T, B2^T)^T: an element-wise product of low-rank matrices is
    low-rank itself.
    """
    return Dense(Live.of(_columns, *(_numbers(A) for A in (A1, A2))))


def khatri_rao_rows(B1: Expr, B2: Expr) -> Dense:
    """The rows of all products B1_i * B2_j: (r1, m), (r2, m) -> (r1 r2, m)."""
    return Dense(Live.of(_rows, *(_numbers(B) for B in (B1, B2))))


def _columns(A1: Tensor, A2: Tensor) -> Tensor:
    return (A1.unsqueeze(2) * A2.unsqueeze(1)).flatten(1)


def _rows(B1: Tensor, B2: Tensor) -> Tensor:
    return (B1.unsqueeze(1) * B2.unsqueeze(0)).flatten(0, 1)


def _numbers(M: Expr) -> Tensor | Live:
    if not isinstance(M, Dense):
        raise TypeError(f"expected a factor held as numbers, got {type(M).__name__}")
    return M.numbers
