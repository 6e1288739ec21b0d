"""What a method is: hyper-parameters, parameters and the equation phi(W); how methods compose.

A method is a frozen dataclass. Its fields are the hyper-parameters, the config, the command-line flags and the
checkpoint metadata at once; everything else is derived from the few functions below.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Expr, Live, Weight

Constants = Mapping[str, Tensor]


class Start(NamedTuple):
    """A parameter before training: its shape, and the function that fills it given the method's constants."""

    shape: tuple[int, ...]
    fill: Callable[[Tensor, Constants], Any]


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


class Params:
    """The parameters and constants of one layer as phi reads them: ``p.A`` is a matrix expression, ``p.d`` a vector.

    Values are tensors, or ``Live`` where an expression is kept while they change.
    """

    def __init__(self, values: Mapping[str, Tensor | Live | Expr], training: bool = False):
        self._values, self.training = values, training

    def __getattr__(self, name: str) -> Any:
        try:
            value = self._values[name]
        except KeyError:
            raise AttributeError(f"the method has no parameter or constant {name!r}") from None
        return Dense(value) if not isinstance(value, Expr) and value.dim() == 2 else value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def replace(self, **values: Tensor | Live | Expr) -> Params:
        return Params({**self._values, **values}, self.training)

    def within(self, prefix: str) -> Params:
        """The parameters whose name starts with the prefix, without it."""
        kept = {k.removeprefix(prefix): v for k, v in self._values.items() if k.startswith(prefix)}
        return Params(kept, self.training)


@dataclass(frozen=True)
class Method(ABC):
    """One way to fine-tune: phi(W) = g(f(W)).

    The docstring's first line of a method is its equation, the last its source.
    """

    name: ClassVar[str] = ""
    category: ClassVar[str]  # reconstruction | extension | combination
    mode: ClassVar[str] = ""  # for reconstructions: what of the subspaces is adjusted
    formula: ClassVar[str]  # parameters of one weight; in n, m, r and k = min(n, m)
    paper: ClassVar[str]
    sits_on: ClassVar[str] = "weight"  # weight | bias
    places: ClassVar[str] = "all"  # default modules: all | key_value_ff | biases (see targets.py)
    learning_rate: ClassVar[float] = 1e-3
    mergeable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        r = getattr(self, "r", None)
        if r is not None and (isinstance(r, bool) or not isinstance(r, int) or r <= 0):
            raise ValueError(f"{self.name}: the rank r is a whole number above 0, got r={r!r}")

    @abstractmethod
    def parameters(self, n: int, m: int) -> dict[str, Start]:
        """The trained parameters of a weight in R^{n x m}: name -> shape and start."""

    def constants(self, W: Weight) -> dict[str, Tensor]:
        """Frozen tensors that phi needs and that are computed once from W, never stored in a checkpoint."""
        return {}

    def phi(self, W: Expr, p: Params) -> Expr:
        """The equation."""
        return W

    def bias(self, b: Any, p: Params) -> Any:
        """The bias b (m,) after tuning; None where the layer has none."""
        return b

    def penalty(self, p: Params) -> Tensor | None:
        """A term for the loss, or None."""
        return None

    def check(self, n: int, m: int) -> None:
        """Raise ValueError where a weight in R^{n x m} is too small for the method."""
        r = getattr(self, "r", None)
        if r is not None and r > min(n, m):
            raise ValueError(
                f"{self.describe()}: the rank r={r} is larger than this weight allows, which is {n} x {m}; "
                f"choose r <= {min(n, m)} or leave the module out"
            )

    def count(self, n: int, m: int) -> int:
        """Trained numbers for a weight in R^{n x m}."""
        return sum(torch.Size(start.shape).numel() for start in self.parameters(n, m).values())

    def with_fields(self, **values: Any) -> Method:
        """A copy with other hyper-parameters; the ones that the method does not have are left out."""
        mine = {f.name for f in fields(self)}
        return dataclasses.replace(self, **{k: v for k, v in values.items() if k in mine})

    def describe(self) -> str:
        values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{self.name}({values})"

    @classmethod
    def equation(cls) -> str:
        return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")

    def __or__(self, other: Method) -> Composition:
        """self | other: phi(W) = other.phi(self.phi(W)); first reconstruct, then extend."""
        return Composition((*_members(self), *_members(other)))


def _members(method: Method) -> tuple[Method, ...]:
    return method.members if isinstance(method, Composition) else (method,)


@dataclass(frozen=True)
class Composition(Method):
    """phi(W) = g(f(W)) for members f, g, ... applied one after the other.

    Parameters of member i carry the prefix ``i_``. Source: arXiv:2407.05417, eq. (4).
    """

    members: tuple[Method, ...] = ()

    category = "combination"
    mode = "composition"
    formula = "the members' sum"
    paper = "arXiv:2407.05417, eq. (4)"

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError(f"a composition has two members or more, got {len(self.members)}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return "|".join(f.name for f in self.members)

    @property
    def places(self) -> str:  # type: ignore[override]
        found = {f.places for f in self.members}
        return found.pop() if len(found) == 1 else "all"

    @property
    def sits_on(self) -> str:  # type: ignore[override]
        return "bias" if all(f.sits_on == "bias" for f in self.members) else "weight"

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        return all(f.mergeable for f in self.members)

    @property
    def learning_rate(self) -> float:  # type: ignore[override]
        return min(f.learning_rate for f in self.members)

    def parts(self, p: Params) -> Iterator[tuple[Method, Params]]:
        return ((f, p.within(f"{i}_")) for i, f in enumerate(self.members))

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        out = {}
        for i, f in enumerate(self.members):
            for name, start in f.parameters(n, m).items():
                out[f"{i}_{name}"] = Start(start.shape, _with_prefix(start.fill, f"{i}_"))
        return out

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {f"{i}_{k}": v for i, f in enumerate(self.members) for k, v in f.constants(W).items()}

    def phi(self, W: Expr, p: Params) -> Expr:
        for f, part in self.parts(p):
            W = f.phi(W, part)
        return W

    def bias(self, b: Any, p: Params) -> Any:
        for f, part in self.parts(p):
            b = f.bias(b, part)
        return b

    def penalty(self, p: Params) -> Tensor | None:
        terms = [t for f, part in self.parts(p) if (t := f.penalty(part)) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def check(self, n: int, m: int) -> None:
        for f in self.members:
            f.check(n, m)

    def with_fields(self, **values: Any) -> Method:
        return Composition(tuple(f.with_fields(**values) for f in self.members))

    def describe(self) -> str:
        return " | ".join(f.describe() for f in self.members)


def _with_prefix(fill: Callable[[Tensor, Constants], Any], prefix: str) -> Callable[[Tensor, Constants], Any]:
    return lambda t, c: fill(t, {k.removeprefix(prefix): v for k, v in c.items() if k.startswith(prefix)})
