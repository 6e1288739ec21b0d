"""How methods compose: phi(W) = g(f(W))."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.method.method import Method, Seat
from subspace_tuning.method.parameters import Constants, Params, Start, within

_OfMember: TypeAlias = "Callable[[Method, dict[str, Tensor], str], dict[str, Tensor]]"


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
    def no_decay(self) -> str:  # type: ignore[override]
        return next((f.no_decay for f in self.members if f.no_decay), "")

    @property
    def starts_at(self) -> str:  # type: ignore[override]
        return next((f.starts_at for f in self.members if f.starts_at != "W"), "W")

    @property
    def noisy(self) -> bool:  # type: ignore[override]
        return any(f.noisy for f in self.members)

    @property
    def shared(self) -> dict[str, str]:  # type: ignore[override]
        return {f"{i}_{k}": of for i, f in enumerate(self.members) for k, of in f.shared.items()}

    @property
    def calibration(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(sorted({name for f in self.members for name in f.calibration}))

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"{i}_{k}": v for i, f in enumerate(self.members) for k, v in f.calibrated(W, found).items()}

    def parts(self, p: Params) -> Iterator[tuple[Method, Params]]:
        """Each member with its own parameters, prefixes taken off."""
        return ((f, p.within(f"{i}_")) for i, f in enumerate(self.members))

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return self._prefixed(lambda f: f.parameters(n, m))

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {f"{i}_{k}": v for i, f in enumerate(self.members) for k, v in f.constants(W).items()}

    def phi(self, W: Expr, p: Params) -> Expr:
        for f, part in self.parts(p):
            W = f.phi(W, part)
        return W

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """Each member at the strength t, on what the ones before it made."""
        for f, part in self.parts(p):
            W = f.phi_t(W, part, t)
        return W

    def whole(self, p: Params) -> Params:
        parts = enumerate(f.whole(part) for f, part in self.parts(p))
        return p.replace(**{f"{i}_{k}": v for i, part in parts for k, v in part._values.items()})

    def factor_pairs(self) -> list[tuple[str, str, float]]:
        return [(f"{i}_{A}", f"{i}_{B}", s) for i, f in enumerate(self.members) for A, B, s in f.factor_pairs()]

    def bias(self, b: Any, p: Params) -> Any:
        for f, part in self.parts(p):
            b = f.bias(b, part)
        return b

    def bias_t(self, b: Any, p: Params, t: float) -> Any:
        for f, part in self.parts(p):
            b = f.bias_t(b, part, t)
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
        return _in_turn(f.output(m, part) for f, part in self.parts(p))

    def output_t(self, m: int, p: Params, t: float) -> Expr | None:
        return _in_turn(f.output_t(m, part, t) for f, part in self.parts(p))

    @property
    def on_step(self) -> bool:
        return any(f.on_step for f in self.members)

    @property
    def needs_total(self) -> bool:
        return any(f.needs_total for f in self.members)

    @property
    def penalises(self) -> bool:
        return any(f.penalises for f in self.members)

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        for i, f in enumerate(self.members):
            f.before_step([seat.within(f"{i}_") for seat in seats], step, total)

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        for i, f in enumerate(self.members):
            f.after_step([seat.within(f"{i}_") for seat in seats], step, total)

    def penalty(self, p: Params, among: int = 1) -> Tensor | None:
        found = [f.penalty(part, among) for f, part in self.parts(p)]
        terms = [t for t in found if t is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def packed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._by_member(values, lambda f, mine, _: f.packed(mine))

    def unpacked(self, values: dict[str, Tensor], constants: Constants, n: int, m: int) -> dict[str, Tensor]:
        return self._by_member(values, lambda f, mine, prefix: f.unpacked(mine, within(constants, prefix), n, m))

    def _by_member(self, values: dict[str, Tensor], do: _OfMember) -> dict[str, Tensor]:
        parts = ((i, do(f, within(values, f"{i}_"), f"{i}_")) for i, f in enumerate(self.members))
        return {f"{i}_{k}": v for i, part in parts for k, v in part.items()}

    def check(self, n: int, m: int) -> None:
        for f in self.members:
            f.check(n, m)

    def fitted(self, n: int, m: int) -> Method:
        return Composition(tuple(f.fitted(n, m) for f in self.members))

    def with_fields(self, **values: Any) -> Method:
        return Composition(tuple(f.with_fields(**values) for f in self.members))

    def describe(self) -> str:
        return " | ".join(f.describe() for f in self.members)


def _in_turn(outputs: Iterable[Expr | None]) -> Expr | None:
    found = [E for E in outputs if E is not None]
    return reduce(lambda E, F: E @ F, found) if found else None


def _with_prefix(fill: Callable[[Tensor, Constants], Any], prefix: str) -> Callable[[Tensor, Constants], Any]:
    return lambda t, c: fill(t, within(c, prefix))


def members(method: Method) -> tuple[Method, ...]:
    """The members of a composition; any other method is its own."""
    return method.members if isinstance(method, Composition) else (method,)


def compose(f: Method, g: Method) -> Composition:
    """g(f(W))."""
    return Composition((*members(f), *members(g)))
