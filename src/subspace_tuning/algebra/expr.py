"""What a lazy matrix expression is: a matrix that is known by what it does to rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Union

from torch import Tensor

from subspace_tuning.algebra.live import Live
from subspace_tuning.algebra.planner import Factor, cheapest_order

Operand = Union["Expr", Tensor, Live]


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
        return _products().Product((self, _products().matrix(other)))

    def __rmatmul__(self, x: Any) -> Tensor:
        return self.apply(x)

    def __add__(self, other: Operand) -> Expr:
        return _products().Sum((self, _products().matrix(other)))

    def __sub__(self, other: Operand) -> Expr:
        return self + -1.0 * _products().matrix(other)

    def __rmul__(self, scale: float) -> Expr:
        return _products().Product((self,), scale)


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


def root(expr: Expr) -> Leaf:
    """The frozen weight that stands in an expression."""
    for leaf in expr.leaves():
        if leaf.frozen:
            return leaf
    raise ValueError("the expression holds no frozen weight W")


def _products() -> Any:
    """Products and sums are made of expressions, which are multiplied and added: one of the two has to wait."""
    from subspace_tuning.algebra import products

    return products
