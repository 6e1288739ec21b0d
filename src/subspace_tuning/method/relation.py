"""Relations between methods: what one makes of a weight, another makes too, by parameters that can be named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method.method import Method

Values = Mapping[str, Tensor]


class At(NamedTuple):
    """Both methods on one weight: x are the constants of the outer one, y all that the inner one has."""

    outer: Method
    inner: Method
    W: Tensor
    x: Values
    y: Values


@dataclass(frozen=True)
class Contains:
    """Whatever phi(W) ``inner`` makes, ``outer`` makes too, by the parameters and stored numbers that ``given`` finds.

    ``when`` says how, in words and letters of the equations; methods are examples of their fields, as functions of n
    and m where these depend on the weight's size. ``holds`` says on which sizes.
    """

    outer: Method | Callable[[int, int], Method]
    inner: Method | Callable[[int, int], Method]
    when: str
    given: Callable[[At], dict[str, Tensor]]
    holds: Callable[[int, int], bool] = lambda n, m: True

    def on(self, n: int, m: int) -> tuple[Method, Method]:
        """Both methods for a weight in R^{n x m}."""
        outer, inner = (f if isinstance(f, Method) else f(n, m) for f in (self.outer, self.inner))
        return outer, inner

    @property
    def names(self) -> tuple[str, str]:
        outer, inner = self.on(8, 8)
        return outer.name, inner.name

    def parameters(self, W: Weight, values: Values) -> dict[str, Tensor]:
        """Those with which the outer method makes of W what the inner one makes of it by these."""
        outer, inner = self.on(*W.shape)
        y = {**inner.constants(W), **values}
        return self.given(At(outer, inner, W.dense(), outer.constants(W), y))
