"""The frozen weight W, and maps of rows that stand beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide


class NotALinearMap(ValueError):
    """Raised when a matrix is asked of an expression that is not one (a nonlinearity stands between A and B)."""


class Weight(Leaf):
    """The frozen weight W in R^{n x m}, given as a tensor with an optional bias.

    Layers of a network are weights too: see ``weights.py``.
    """

    frozen = True
    place = ""  # the name of its layer in a model: random numbers of one layer alone follow from it

    def __init__(self, W: Tensor, bias: Tensor | None = None):
        self._W, self._bias = W, bias
        self.shape = (W.shape[0], W.shape[1])

    def known_as(self, place: str) -> Self:
        """W itself, known to be of this layer."""
        self.place = place
        return self

    def dense(self) -> Tensor:
        return self._W

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the rows that it meets."""
        return self._W.dtype

    @property
    def like(self) -> Tensor:
        """A tensor without numbers, in the precision of the rows and where W is: W itself is not read."""
        return self._W.new_empty(0)

    @property
    def own_bias(self) -> Tensor | None:
        return self._bias

    def forward(self, x: Any) -> Tensor:
        """x W + own bias, by the frozen layer itself."""
        return plus(self.product(x), self._bias)

    def product(self, x: Any) -> Tensor:
        """x W."""
        return x @ self._W.to(x.dtype)

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        own = self.own_bias
        if bias is own:
            return self.forward(x)
        if bias is None:
            return self.product(x)
        return plus(self.forward(x), bias if own is None else wide(bias) - own)

    def delta_factors(self) -> tuple[Tensor, Tensor] | None:
        n, m = self.shape
        W = self.dense()
        return W.new_zeros(n, 0), W.new_zeros(0, m)

    def as_factor(self, training: bool) -> Factor:
        return Factor("opaque", *self.shape)


class Elementwise(Leaf):
    """A map h of the rows, entry by entry, on n features.

    ``linear`` marks maps that are the identity in expectation (dropout): as a matrix they are I. Any other h makes the
    expression a function of x that no weight can stand for.
    """

    def __init__(self, h: Callable[[Tensor], Tensor], n: int, linear: bool = False):
        self.h, self.linear, self.transparent = h, linear, linear
        self.shape = (n, n)

    def dense(self) -> Tensor:
        if not self.linear:
            raise NotALinearMap(
                "there is a nonlinearity between the factors, so x -> phi(x) is not a product with a weight: "
                "it cannot be merged, exported or fitted; keep the adapter unmerged"
            )
        return torch.eye(self.shape[0])

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        y = self.h(x) if isinstance(x, Tensor) else x.map(self.h)
        return plus(y, bias)

    def as_factor(self, training: bool) -> Factor:
        return Factor("opaque", *self.shape)


class Identity(Elementwise):
    """I in R^{n x n}."""

    def __init__(self, n: int):
        super().__init__(lambda x: x, n, linear=True)
