"""The straight line between two matrices."""

from __future__ import annotations

from subspace_tuning.algebra.expr import Expr
from subspace_tuning.algebra.frozen import Identity
from subspace_tuning.algebra.products import Sum


def line(W: Expr, E: Expr, t: float) -> Expr:
    """W + t (E - W), both (n, m): where E is W + ..., its other terms times t, else (1 - t) W + t E."""
    if E is W:
        return W
    start = _terms(W)
    if isinstance(E, Sum) and all(_same(a, b) for a, b in zip(start, E.terms, strict=False)):
        return Sum((*start, *(t * term for term in E.terms[len(start) :])))
    return Sum(((1 - t) * W, t * E))


def _terms(E: Expr) -> tuple[Expr, ...]:
    return E.terms if isinstance(E, Sum) else (E,)


def _same(a: Expr, b: Expr) -> bool:
    return a is b or (isinstance(a, Identity) and isinstance(b, Identity))
