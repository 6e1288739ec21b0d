"""Parameters of a method: their shapes, how they start, and how phi reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Expr, Live
from subspace_tuning.algebra.precision import wide

Constants = Mapping[str, Tensor]
_Value = TypeVar("_Value")


class Start(NamedTuple):
    """A parameter before training: its shape, and the function that fills it given the method's constants."""

    shape: tuple[int, ...]
    fill: Callable[[Tensor, Constants], Any]
    dtype: torch.dtype | None = None  # None: the weight's


def ones(*shape: int) -> Start:
    return Start(shape, lambda t, _: t.fill_(1.0))


def zeros(*shape: int) -> Start:
    return Start(shape, lambda t, _: t.zero_())


def normal(*shape: int, std: float) -> Start:
    return Start(shape, lambda t, _: t.normal_(std=std))


def kaiming(*shape: int) -> Start:
    """Uniform in +-1/sqrt(n) for A in R^{n x r}: torch's default for a linear map with n inputs."""
    bound = shape[0] ** -0.5
    return Start(shape, lambda t, _: t.uniform_(-bound, bound))


def constant(name: str, *shape: int) -> Start:
    """A copy of one of the method's constants."""
    return Start(shape, lambda t, c: t.copy_(c[name]))


def within(values: Mapping[str, _Value], prefix: str) -> dict[str, _Value]:
    """Those whose name starts with the prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


class Params:
    """The parameters and constants of one layer as phi reads them: ``p.A`` is a matrix expression, ``p.d`` a vector.

    Values are tensors, or ``Live`` where an expression is kept while they change. Vectors are read in single precision
    or better, whatever they are kept in: what an equation makes of them, 1 + delta, is not rounded.
    """

    def __init__(
        self, values: Mapping[str, Tensor | Live | Expr], training: bool = False, asked: set[str] | None = None
    ):
        self._values, self._training, self.asked = values, training, set() if asked is None else asked

    @property
    def training(self) -> bool:
        """Whether phi is that of training; who asks is noted: for others one phi serves both."""
        self.asked.add("training")
        return self._training

    def __getattr__(self, name: str) -> Any:
        try:
            value = self._values[name]
        except KeyError:
            raise AttributeError(f"the method has no parameter or constant {name!r}") from None
        if isinstance(value, Expr):
            return value
        if value.dim() == 2:
            return Dense(value)
        return Live.of(wide, value) if isinstance(value, Live) else wide(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def replace(self, **values: Tensor | Live | Expr) -> Params:
        return Params({**self._values, **values}, self._training, self.asked)

    def within(self, prefix: str) -> Params:
        """The parameters whose name starts with the prefix, without it."""
        return Params(within(self._values, prefix), self._training, self.asked)
