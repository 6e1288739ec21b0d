"""An expression cut in front of W, so that many of them can meet the frozen weight in one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Expr
from subspace_tuning.algebra.frozen import NotALinearMap, Weight
from subspace_tuning.algebra.precision import plus
from subspace_tuning.algebra.products import Product, Sum


class Known(Weight):
    """The frozen weight where what it makes of the rows is known already."""

    def __init__(self, W: Weight, n: int):
        self.W, self.shape = W, (n, W.shape[1])
        self.y: Tensor | None = None

    def dense(self) -> Tensor:
        raise NotALinearMap("what W makes of one batch is not W")

    @property
    def dtype(self) -> torch.dtype:
        return self.W.dtype

    @property
    def own_bias(self) -> Tensor | None:
        return self.W.own_bias

    def forward(self, x: Any) -> Tensor:
        if self.y is None:
            raise RuntimeError("the product with the frozen weight was not computed")
        return self.y

    def product(self, x: Any) -> Tensor:
        own = self.own_bias
        return self.forward(x) if own is None else plus(self.forward(x), -own)


class Cut(NamedTuple):
    """E in two: the factors whose product meets W, and E with ``known`` in the place of W."""

    before: tuple[Expr, ...]
    known: Known
    E: Expr

    def meets_W(self, x: Tensor) -> Tensor:
        return Product(self.before).apply(x) if self.before else x

    def finish(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        """x E + bias, given what W makes of ``meets_W(x)``."""
        self.known.y = y
        try:
            return self.E.apply(x, bias)
        finally:
            self.known.y = None


def cut(E: Expr, W: Weight) -> Cut | None:
    """E in two; None where W is no factor of it, or of several terms."""
    if E is W:
        known = Known(W, W.shape[0])
        return Cut((), known, known)
    if isinstance(E, Sum):
        i, inner = _holder(E.terms, W)
        return inner and Cut(inner.before, inner.known, Sum((*E.terms[:i], inner.E, *E.terms[i + 1 :])))
    if isinstance(E, Product):
        i, inner = _holder(E.chain, W)
        if inner is None:
            return None
        before, after = E.chain[:i], E.chain[i + 1 :]
        if inner.E is inner.known:  # nothing else asks for the rows: they need not be made again
            known = Known(W, before[0].shape[0]) if before else inner.known
            return Cut(before, known, Product((known, *after), E.scale))
        return Cut((*before, *inner.before), inner.known, Product((*before, inner.E, *after), E.scale))
    return None


def _holder(parts: Sequence[Expr], W: Weight) -> tuple[int, Cut | None]:
    found = [i for i, part in enumerate(parts) if any(leaf is W for leaf in part.leaves())]
    return (found[0], cut(parts[found[0]], W)) if len(found) == 1 else (0, None)


def halves(E: Expr, W: Weight) -> Cut:
    """E in two. Raises TypeError where it cannot be cut."""
    found = cut(E, W)
    if found is None:
        raise TypeError(f"{type(E).__name__} cannot be cut in front of W")
    return found
