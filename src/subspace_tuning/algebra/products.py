"""Sums and products of matrices that meet their rows in the cheapest order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Expr, Leaf
from subspace_tuning.algebra.factors import Dense, Diag, matrix
from subspace_tuning.algebra.kernels import THIN
from subspace_tuning.algebra.near_identity import NearIdentity
from subspace_tuning.algebra.planner import Factor, Plan, cheapest_order
from subspace_tuning.algebra.precision import once, wide

__all__ = ["Product", "Sum", "matrix"]


class Product(Expr):
    """scale * E1 E2 ... Ek, evaluated in the cheapest order."""

    def __init__(self, factors: Iterable[Expr], scale: float = 1.0):
        flat: list[Expr] = []
        for f in factors:
            if isinstance(f, Product):
                flat.extend(f.chain)
                scale *= f.scale
            else:
                flat.append(f)
        for left, right in pairwise(flat):
            if left.shape[1] != right.shape[0]:
                raise ValueError(f"cannot multiply {left.shape} by {right.shape}: inner sizes differ")
        self.chain: tuple[Expr, ...] = tuple(flat)
        self.scale: float = scale
        self.shape = (flat[0].shape[0], flat[-1].shape[1])
        self._still: tuple[int, Plan] | None = None  # the order for so many rows, where nothing is trained

    @property
    def own_bias(self) -> Tensor | None:
        return self.chain[-1].own_bias if self.scale == 1.0 else None

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        plan = self._plan(x)
        if self.scale == 1.0:
            return self._run(plan, x, bias)
        left, right = plan.sides()
        last = self._side(right)
        if isinstance(last, Dense):
            return last.apply(self._run(left, x, None), bias, self.scale)
        y = self._run(plan, x, None)
        return self.scale * y if bias is None else once(partial(torch.add, alpha=self.scale), bias, y, like=y)

    def _plan(self, x: Any) -> Plan:
        if torch.compiler.is_compiling() or len(self.chain) == 1:
            return Plan.left_to_right(len(self.chain))
        tokens, training = math.prod(x.shape[:-1]), torch.is_grad_enabled() and self.trainable > 0
        if training:
            return cheapest_order(tokens, tuple(f.as_factor(True) for f in self.chain), True)
        if self._still is None or self._still[0] != tokens:  # word by word nothing changes, and each microsecond counts
            self._still = tokens, cheapest_order(tokens, tuple(f.as_factor(False) for f in self.chain), False)
        return self._still[1]

    def _run(self, plan: Plan, x: Any, bias: Tensor | None) -> Tensor:
        if plan.leaf == 0:
            return x
        left, right = plan.sides()
        if right.leaf is None:
            return Dense(self._build(right)).apply(self._run(left, x, None), bias)
        return self.chain[right.leaf - 1].apply(self._run(left, x, None), bias)

    def _build(self, plan: Plan) -> Tensor:
        """The product of some factors without x."""
        if plan.leaf is not None:
            return self.chain[plan.leaf - 1].dense()
        left, right = plan.sides()
        return _multiply(self._side(left), self._side(right))

    def _side(self, plan: Plan) -> Expr:
        return self.chain[plan.leaf - 1] if plan.leaf is not None else Dense(self._build(plan))

    def dense(self) -> Tensor:
        chain = [f for f in self.chain if not (isinstance(f, Leaf) and f.transparent)] or [self.chain[0]]
        first, *rest = (f if isinstance(f, Diag) else Dense(wide(f.dense())) for f in chain)
        M = reduce(lambda left, right: Dense(_multiply(left, right)), rest, first).dense()
        return M if self.scale == 1.0 else self.scale * M

    def leaves(self) -> Iterable[Leaf]:
        return (leaf for f in self.chain for leaf in f.leaves())

    def factors(self) -> tuple[Tensor, Tensor] | None:
        if not all(leaf.linear for leaf in self.leaves()):
            return None
        if len(self.chain) == 1:
            own = self.chain[0].factors()
            return None if own is None else (self.scale * own[0], own[1])
        cuts = [f.shape[1] for f in self.chain[:-1]]
        if not cuts or min(cuts) >= min(self.shape):
            return None
        k = cuts.index(min(cuts)) + 1
        return Product(self.chain[:k]).dense() * self.scale, Product(self.chain[k:]).dense()

    def delta_factors(self) -> tuple[Tensor, Tensor] | None:
        """(I + L R) W - W = L (R W)."""
        near, W = self.chain[0], self.chain[-1]
        if len(self.chain) != 2 or self.scale != 1.0 or not isinstance(near, NearIdentity) or not isinstance(W, Leaf):
            return None
        if not W.frozen or near.L.shape[1] >= min(self.shape):
            return None
        L, R = wide(near.L.dense()), wide(near.R.dense())
        return L, R @ W.dense().to(R.dtype)

    def sides(self, training: bool) -> tuple[Expr, Expr] | None:
        """L, R with E = L R, cut where E is thinnest; None where, in training, one would hold more than it trains."""
        if len(self.chain) < 2 or not all(isinstance(f, Dense | Diag) for f in self.chain):
            return None
        cuts = [f.shape[1] for f in self.chain[:-1]]
        k = cuts.index(min(cuts)) + 1
        both = Product(self.chain[:k], self.scale), Product(self.chain[k:])
        dense = training and any(len(e.chain) > 1 and 0 < e.trainable < math.prod(e.shape) for e in both)
        return None if dense else both

    def as_factor(self, training: bool) -> Factor:
        inner = tuple(f.as_factor(training) for f in self.chain)
        return Factor.chain(inner, *self.shape, trainable=self.trainable if training else 0)


class Sum(Expr):
    """E1 + E2 + ... + Ek; each term meets the rows by its own cheapest order, thin products L_i R_i all at once: as
    [L_1 L_2 ...] [R_1; R_2; ...], because each of them would read x and add to the output anew.
    """

    def __init__(self, terms: Iterable[Expr]):
        flat: list[Expr] = []
        for t in terms:
            flat.extend(t.terms if isinstance(t, Sum) else (t,))
        if len({t.shape for t in flat}) != 1:
            raise ValueError(f"cannot add matrices of shapes {[t.shape for t in flat]}")
        self.terms: tuple[Expr, ...] = tuple(flat)
        self.shape = flat[0].shape
        self._ways = self._joined(training=False), self._joined(training=True)

    def _joined(self, training: bool) -> tuple[list[tuple[Expr, Expr]], list[Expr]]:
        """The thin products that are done at once, as L_i and R_i, and the terms that are not."""
        rest = self.terms[1:]
        pairs = [t.sides(training) if isinstance(t, Product) else None for t in rest]
        thin = [pair for pair in pairs if pair and pair[0].shape[1] <= THIN // len(self.terms)]
        if len(thin) < 2:
            return [], list(rest)
        return thin, [t for t, pair in zip(rest, pairs, strict=True) if pair not in thin]

    @property
    def own_bias(self) -> Tensor | None:
        return self.terms[0].own_bias

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        thin, wide = self._ways[torch.is_grad_enabled() and self.trainable > 0]
        y = self.terms[0].apply(x, bias)
        for term in wide:
            y = term.apply(x, y)
        if thin:
            lefts, rights = zip(*thin, strict=True)
            L, R = torch.cat([e.dense() for e in lefts], 1), torch.cat([e.dense() for e in rights])
            y = Dense(R).apply(Dense(L).apply(x), y)
        return y

    def dense(self) -> Tensor:
        first, *rest = (wide(t.dense()) for t in self.terms)
        return sum(rest, first)

    def leaves(self) -> Iterable[Leaf]:
        return (leaf for t in self.terms for leaf in t.leaves())

    def delta_factors(self) -> tuple[Tensor, Tensor] | None:
        frozen = [t for t in self.terms if isinstance(t, Leaf) and t.frozen]
        pairs = [t.factors() for t in self.terms if t not in frozen]
        if len(frozen) != 1 or any(p is None for p in pairs):
            return None
        lefts, rights = zip(*(p for p in pairs if p is not None), strict=True)
        return torch.cat(lefts, 1), torch.cat(rights, 0)

    def as_factor(self, training: bool) -> Factor:
        inner = tuple(t.as_factor(training) for t in self.terms)
        return Factor.sum(inner, *self.shape, trainable=self.trainable if training else 0)


def _multiply(left: Expr, right: Expr) -> Tensor:
    if isinstance(left, Diag):
        M = right.dense()
        return once(torch.mul, left.d.unsqueeze(1), M, like=M)
    if isinstance(right, Diag):
        M = left.dense()
        return once(torch.mul, M, right.d, like=M)
    L, R = left.dense(), right.dense()
    dtype = torch.promote_types(L.dtype, R.dtype)
    return L.to(dtype) @ R.to(dtype)
