"""Lazy matrix expressions: sums and products of matrices that meet their rows in the cheapest order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import reduce
from itertools import pairwise
from typing import Any, Union

import torch
from torch import Tensor

from subspace_tuning.algebra.kernels import THIN, added_product, scaled
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor, Plan, cheapest_order

Operand = Union["Expr", Tensor, Live]


def matrix(operand: Operand) -> Expr:
    """Read a two-dimensional tensor as a ``Dense`` expression; leave expressions as they are."""
    return operand if isinstance(operand, Expr) else Dense(operand)


class Expr(ABC):
    """A matrix E in R^{n x m}, known by what it does to rows."""

    shape: tuple[int, int]

    @abstractmethod
    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        """x E + bias. x: (..., n) or rows that know ``@`` and ``*``; bias: (m,). Returns (..., m)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """E itself, (n, m). Raises ``NotALinearMap`` where E is not a matrix."""

    @abstractmethod
    def leaves(self) -> Iterable[Leaf]:
        """The expressions that are not made of others."""

    @property
    def trainable(self) -> int:
        """How many numbers of E receive a gradient."""
        return sum(leaf.trainable for leaf in self.leaves())

    @property
    def own_bias(self) -> Tensor | None:
        """The bias that comes for nothing with ``apply``: the one inside the frozen layer's forward."""
        return None

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """L, R with E = L R exactly, L: (n, k), R: (k, m), k < min(n, m); None where E has no such form."""
        return None

    def delta(self) -> Tensor:
        """E - W, (n, m), for the frozen W that stands in E."""
        W = root(self)
        return self.dense() - W.dense()

    def delta_factors(self) -> tuple[Tensor, Tensor] | None:
        """L, R with E - W = L R exactly, or None."""
        return None

    def flops(self, tokens: int, training: bool = False) -> int:
        """Floating-point operations of ``x @ E`` for that many rows; with ``training``, of its backward pass too."""
        plan = cheapest_order(tokens, (self.as_factor(training),), training)
        return plan.flops

    @abstractmethod
    def as_factor(self, training: bool) -> Factor:
        """How the planner sees E: its shape, its kind, whether a gradient passes into it."""

    def __matmul__(self, other: Operand) -> Expr:
        return Product((self, matrix(other)))

    def __rmatmul__(self, x: Any) -> Tensor:
        return self.apply(x)

    def __add__(self, other: Operand) -> Expr:
        return Sum((self, matrix(other)))

    def __sub__(self, other: Operand) -> Expr:
        return Sum((self, -1.0 * matrix(other)))

    def __rmul__(self, scale: float) -> Expr:
        return Product((self,), scale)


class Leaf(Expr):
    """An expression that is not made of others."""

    linear = True  # False for a map of the rows that no matrix stands for
    transparent = False  # True where the matrix is the identity, whatever happens to the rows in training
    frozen = False  # True for the weight W itself

    def leaves(self) -> Iterable[Leaf]:
        return (self,)

    @property
    def trainable(self) -> int:
        return 0


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
        M = self.M.to(x.dtype)
        if isinstance(x, Tensor):
            return added_product(x, M, bias, scale)
        y = x @ M if scale == 1.0 else scale * (x @ M)
        return y if bias is None else y + bias.to(y.dtype)

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
        d = self.d.to(x.dtype)
        if isinstance(x, Tensor):
            return scaled(x, d, None if bias is None else bias.to(x.dtype))
        return x * d

    @property
    def trainable(self) -> int:
        return self.numbers.numel() if self.numbers.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        return Factor("diag", *self.shape, trainable=self.trainable if training else 0)


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
        return self.scale * y if bias is None else torch.add(bias.to(y.dtype), y, alpha=self.scale)

    def _plan(self, x: Any) -> Plan:
        training = torch.is_grad_enabled() and self.trainable > 0
        if torch.compiler.is_compiling() or len(self.chain) == 1:
            return Plan.left_to_right(len(self.chain))
        tokens = math.prod(x.shape[:-1])
        return cheapest_order(tokens, tuple(f.as_factor(training) for f in self.chain), training)

    def _run(self, plan: Plan, x: Any, bias: Tensor | None) -> Tensor:
        if plan.leaf == 0:
            return x
        left, right = plan.sides()
        if right.leaf is None:
            return Dense(self._build(right)).apply(self._run(left, x, None), bias)
        factor = self.chain[right.leaf - 1]
        inner = self.chain[right.leaf - 2].own_bias if right.leaf > 1 and left.ends_with(right.leaf - 1) else None
        if isinstance(factor, Diag) and inner is not None:
            # the layer's own bias rides along: (x W + b) d + (bias - b d) is x W d + bias without subtracting it first
            d = factor.d.to(inner.dtype)
            rest = -(inner * d) if bias is None else torch.addcmul(bias.to(inner.dtype), inner, d, value=-1)
            return factor.apply(self._run(left, x, inner), rest)
        return factor.apply(self._run(left, x, None), bias)

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
        M = reduce(lambda left, right: Dense(_multiply(left, right)), chain[1:], chain[0]).dense()
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
        first, *rest = (t.dense() for t in self.terms)
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
        return left.d.to(right.dense().dtype).unsqueeze(1) * right.dense()
    if isinstance(right, Diag):
        return left.dense() * right.d.to(left.dense().dtype)
    L, R = left.dense(), right.dense()
    dtype = torch.promote_types(L.dtype, R.dtype)
    return L.to(dtype) @ R.to(dtype)


def root(expr: Expr) -> Leaf:
    """The frozen weight that stands in an expression."""
    for leaf in expr.leaves():
        if leaf.frozen:
            return leaf
    raise ValueError("the expression holds no frozen weight W")
