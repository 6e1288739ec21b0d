"""What a law is: a function of a case and a kind of weight that raises AssertionError where it does not hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from subspace_tuning.method import Composition, Method
from subspace_tuning.testing.cases import Case, sits
from subspace_tuning.testing.kinds import Kind


@dataclass(frozen=True)
class Law:
    """A law, where it applies, and what else it is tried with."""

    holds: Callable[..., None]  # (case, kind, **how)
    where: Callable[[Case, Kind], bool]
    first: int | None  # on the first so many kinds only, for laws that see a matrix whatever layer it is from
    grid: dict[str, Sequence[Any]]

    @property
    def name(self) -> str:
        return self.holds.__name__

    def __call__(self, case: Case, kind: Kind, **how: Any) -> None:
        """Raise AssertionError where the law does not hold; random numbers are the same ones each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.holds(case, kind, **how)

    def instances(self, cases: Iterable[Case], kinds: Sequence[Kind]) -> Iterator[Instance]:
        """The law on each case and kind that it speaks of."""
        for case, kind in itertools.product(cases, kinds[: self.first]):
            if self.where(case, kind):
                for values in itertools.product(*self.grid.values()):
                    yield Instance(self, case, kind, dict(zip(self.grid, values, strict=True)))


class Instance(NamedTuple):
    """A law on one case and one kind of weight."""

    law: Law
    case: Case
    kind: Kind
    how: dict[str, Any]

    def holds(self) -> None:
        self.law(self.case, self.kind, **self.how)

    def __str__(self) -> str:
        return "-".join([str(self.case), str(self.kind), *map(label, self.how.values())])


LAWS: dict[str, Law] = {}


def law(
    where: Callable[[Case, Kind], bool] = sits, first: int | None = None, **grid: Sequence[Any]
) -> Callable[[Callable[..., None]], Law]:
    """Make a function of (case, kind, **how) a law, under its own name."""

    def add(holds: Callable[..., None]) -> Law:
        return LAWS.setdefault(holds.__name__, Law(holds, where, first, grid))

    return add


def mergeable(case: Case, kind: Kind) -> bool:
    return sits(case, kind) and case.resolved.mergeable


def single(case: Case, kind: Kind) -> bool:
    """One method, held to no pattern."""
    return sits(case, kind) and case.mpc is None and not isinstance(case.method, Composition)


def label(value: Any) -> str:
    """A value as it reads in the name of a test."""
    if isinstance(value, Method):
        return value.describe().replace(" ", "")
    return getattr(value, "__name__", None) or str(value).replace("torch.", "")


def require(holds: Any, says: str) -> None:
    """An ``assert`` that no option of Python turns off, with a sentence."""
    if not holds:
        raise AssertionError(says)


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    found: float = ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12)).item()
    return found


def near(got: Tensor, want: Tensor, within: float, what: str) -> None:
    """||got - want|| < within ||want||, of one shape."""
    require(got.shape == want.shape, f"{what} has the shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    require((far := relative(got, want)) < within, f"{what} is off by {far:.1e} of its norm, allowed is {within:.0e}")


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> None:
    """The module holds the same numbers as before, bit for bit."""
    after = module.state_dict()
    require(set(after) == set(before), f"the names in the state changed: {sorted(set(after) ^ set(before))}")
    for key, value in before.items():
        require(torch.equal(after[key], value), f"{key} is not what it was")


@contextmanager
def refused(error: type[Exception], because: str) -> Iterator[None]:
    """What happens inside raises this error, and its message says why."""
    try:
        yield
    except error as e:
        require(because in str(e), f"the refusal should say {because!r}, got {str(e)!r}")
        return
    raise AssertionError(f"expected {error.__name__} ({because}), and nothing was raised")
