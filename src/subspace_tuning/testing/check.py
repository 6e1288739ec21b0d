"""All laws on one method, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from subspace_tuning.method import Method
from subspace_tuning.testing import laws as _laws  # noqa: F401  (fills LAWS)
from subspace_tuning.testing.cases import Case
from subspace_tuning.testing.kinds import KINDS, Kind
from subspace_tuning.testing.law import LAWS, Instance, Law


class Broken(NamedTuple):
    """A law that does not hold, for what, and what it says."""

    instance: Instance
    error: Exception

    @property
    def law(self) -> str:
        return self.instance.law.name

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, AssertionError) else f"{type(self.error).__name__}: "
        says = " ".join(str(self.error).split())
        return f"{self.law} [{self.instance}]: {kind}{says}"


class BrokenLaws(AssertionError):
    """Which laws a method breaks, one line each."""

    def __init__(self, tried: int, broken: Sequence[Broken]):
        self.broken = broken
        super().__init__("\n".join([f"{len(broken)} of {tried} do not hold:", *map(str, broken)]))


def as_case(method: Method | Case, truth: Any = None) -> Case:
    case = method if isinstance(method, Case) else Case(method)
    return case._replace(truth=case.truth or truth)


def check(
    method: Method | Case,
    truth: Any = None,
    kinds: Sequence[Kind] = KINDS,
    laws: Iterable[Law] = LAWS.values(),
) -> None:
    """Try every law on a method, for every kind of base weight. Raises BrokenLaws, which says what failed for what.

    truth: the method's equation in plain dense tensors; see ``Case``.
    """
    cases = [as_case(method, truth)]
    with torch.random.fork_rng(devices=[]):
        instances = [instance for law in laws for instance in law.instances(cases, kinds)]
        broken = [Broken(instance, error) for instance in instances if (error := fails(instance)) is not None]
    if broken:
        raise BrokenLaws(len(instances), broken)


def fails(instance: Instance) -> Exception | None:
    """What a law says where it does not hold."""
    try:
        instance.holds()
    except Exception as error:
        return error
    return None
