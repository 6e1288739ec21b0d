"""What a method is: hyper-parameters, parameters and the equation phi(W); how methods compose.

A method is a frozen dataclass. Its fields are the hyper-parameters, the config, the command-line flags and the
checkpoint metadata at once; everything else is derived from the few functions below.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.parameters import Constants, Params, Start, constant, kaiming, normal, ones, within, zeros

__all__ = [
    "Composition",
    "Constants",
    "Method",
    "Params",
    "Seat",
    "Start",
    "constant",
    "kaiming",
    "normal",
    "ones",
    "steps_of",
    "zeros",
]


def steps_of(number: float, total: int) -> int:
    """A number of steps of training, given as such or, below 1, as a share of all steps."""
    return int(number) if number >= 1 else round(number * total)


class Seat(Protocol):
    """One layer as a method sees it between steps of training."""

    name: str  # of the module
    W: Weight  # frozen
    values: dict[str, Tensor]  # parameters (with their .grad), stored numbers and constants, by name
    memory: dict[str, Any]  # whatever the method remembers from step to step; never saved

    def within(self, prefix: str) -> Seat: ...


@dataclass(frozen=True)
class Method(ABC):
    """One way to fine-tune: phi(W) = g(f(W)).

    The docstring's first line of a method is its equation, the last its source.
    """

    name: ClassVar[str] = ""
    category: ClassVar[str]  # reconstruction | extension | combination
    mode: ClassVar[str] = ""  # for reconstructions: what of the subspaces is adjusted
    formula: ClassVar[str]  # parameters of one weight; in n, m, k = min(n, m), the fields and the sizes
    paper: ClassVar[str]
    sits_on: ClassVar[str] = "weight"  # weight | bias | output | block | tokens
    places: ClassVar[str] = "all"  # default modules: see tuner/targets.py
    learning_rate: ClassVar[float] = 1e-3
    mergeable: ClassVar[bool] = True
    noisy: ClassVar[bool] = False  # True where training draws random numbers, dropout apart
    wide: ClassVar[bool] = False  # True where the rank r may exceed n and m
    rebuilds: ClassVar[bool] = False  # True where training forms a dense n x m gradient, because nothing cheaper exists
    calibration: ClassVar[tuple[str, ...]] = ()  # what the start needs to know of the data: see calibrate.py

    def __post_init__(self) -> None:
        r = getattr(self, "r", None)
        if r is not None and (isinstance(r, bool) or not isinstance(r, int) or r <= 0):
            raise ValueError(f"{self.name}: the rank r is a whole number above 0, got r={r!r}")

    @abstractmethod
    def parameters(self, n: int, m: int) -> dict[str, Start]:
        """The trained parameters of a weight in R^{n x m}: name -> shape and start."""

    def sizes(self, n: int, m: int) -> dict[str, int]:
        """What else the formula names."""
        return {}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        """Frozen tensors that phi needs and that are computed once from W, never stored in a checkpoint."""
        return {}

    def stored(self, n: int, m: int) -> dict[str, Start]:
        """Numbers that phi needs, that training does not change and that a checkpoint stores (the places of a mask)."""
        return {}

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters and stored numbers as they start, given what ``calibration`` asked of the data."""
        return {}

    def phi(self, W: Expr, p: Params) -> Expr:
        """The equation."""
        return W

    def bias(self, b: Any, p: Params) -> Any:
        """The bias b (m,) after tuning; None where the layer has none."""
        return b

    def output(self, m: int, p: Params) -> Expr | None:
        """For methods that sit on a module's output y (..., m): what becomes of y, as an expression in R^{m x m}."""
        return None

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """Parameters and stored numbers with phi(W) as near to W* as they come, bias included, in Frobenius distance.

        In closed form where there is one, else good ones to search on from; nothing where the search is on its own
        (see theory/project.py).
        """
        return {}

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        """Called with the gradients of step 1, 2, ..., total at hand; all layers of an adapter at once."""

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        """Called when the optimiser has taken that step."""

    def penalty(self, p: Params) -> Tensor | None:
        """A term for the loss, or None."""
        return None

    def packed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters as a checkpoint stores them."""
        return values

    def unpacked(self, values: dict[str, Tensor], n: int, m: int) -> dict[str, Tensor]:
        """The parameters of a weight in R^{n x m} from those of a checkpoint."""
        return values

    def check(self, n: int, m: int) -> None:
        """Raise ValueError where a weight in R^{n x m} is too small for the method."""
        r = getattr(self, "r", None)
        if r is not None and r > min(n, m) and not self.wide:
            raise ValueError(
                f"{self.describe()}: the rank r={r} is larger than this weight allows, which is {n} x {m}; "
                f"choose r <= {min(n, m)} or leave the module out"
            )

    def count(self, n: int, m: int) -> int:
        """Trained numbers for a weight in R^{n x m}."""
        return sum(torch.Size(start.shape).numel() for start in self.parameters(n, m).values())

    @property
    def on_step(self) -> bool:
        """Whether the method has something to do at each step of training."""
        mine = type(self)
        return mine.before_step is not Method.before_step or mine.after_step is not Method.after_step

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
        for part in self.members:
            if part.sits_on in ("tokens", "block"):
                raise ValueError(f"{part.name} sits on {part.sits_on}, not on a weight: it composes with nothing")

    @property
    def name(self) -> str:  # type: ignore[override]
        return "|".join(f.name for f in self.members)

    @property
    def places(self) -> str:  # type: ignore[override]
        found = {f.places for f in self.members}
        return found.pop() if len(found) == 1 else "all"

    @property
    def sits_on(self) -> str:  # type: ignore[override]
        seats = {f.sits_on for f in self.members}
        return seats.pop() if len(seats) == 1 else "weight"

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        return all(f.mergeable for f in self.members)

    @property
    def learning_rate(self) -> float:  # type: ignore[override]
        return min(f.learning_rate for f in self.members)

    @property
    def rebuilds(self) -> bool:  # type: ignore[override]
        return any(f.rebuilds for f in self.members)

    @property
    def noisy(self) -> bool:  # type: ignore[override]
        return any(f.noisy for f in self.members)

    @property
    def calibration(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(sorted({name for f in self.members for name in f.calibration}))

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{i}_{k}": v for i, f in enumerate(self.members) for k, v in f.calibrated(W, found).items()}

    def parts(self, p: Params) -> Iterator[tuple[Method, Params]]:
        return ((f, p.within(f"{i}_")) for i, f in enumerate(self.members))

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return self._prefixed(lambda f: f.parameters(n, m))

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

    def stored(self, n: int, m: int) -> dict[str, Start]:
        return self._prefixed(lambda f: f.stored(n, m))

    def _prefixed(self, starts: Callable[[Method], dict[str, Start]]) -> dict[str, Start]:
        out = {}
        for i, f in enumerate(self.members):
            for name, start in starts(f).items():
                out[f"{i}_{name}"] = start._replace(fill=_with_prefix(start.fill, f"{i}_"))
        return out

    def output(self, m: int, p: Params) -> Expr | None:
        found = [E for f, part in self.parts(p) if (E := f.output(m, part)) is not None]
        return reduce(lambda E, F: E @ F, found) if found else None

    @property
    def on_step(self) -> bool:
        return any(f.on_step for f in self.members)

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        for i, f in enumerate(self.members):
            f.before_step([seat.within(f"{i}_") for seat in seats], step, total)

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        for i, f in enumerate(self.members):
            f.after_step([seat.within(f"{i}_") for seat in seats], step, total)

    def penalty(self, p: Params) -> Tensor | None:
        found = [f.penalty(part) for f, part in self.parts(p)]
        terms = [t for t in found if t is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def packed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._by_member(values, lambda f, mine: f.packed(mine))

    def unpacked(self, values: dict[str, Tensor], n: int, m: int) -> dict[str, Tensor]:
        return self._by_member(values, lambda f, mine: f.unpacked(mine, n, m))

    def _by_member(self, values: dict[str, Tensor], do: Callable[[Method, dict], dict]) -> dict[str, Tensor]:
        parts = ((i, do(f, within(values, f"{i}_"))) for i, f in enumerate(self.members))
        return {f"{i}_{k}": v for i, part in parts for k, v in part.items()}

    def check(self, n: int, m: int) -> None:
        for f in self.members:
            f.check(n, m)

    def with_fields(self, **values: Any) -> Method:
        return Composition(tuple(f.with_fields(**values) for f in self.members))

    def describe(self) -> str:
        return " | ".join(f.describe() for f in self.members)


def _with_prefix(fill: Callable[[Tensor, Constants], Any], prefix: str) -> Callable[[Tensor, Constants], Any]:
    return lambda t, c: fill(t, within(c, prefix))
