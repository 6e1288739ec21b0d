"""Every method that is a map of a weight, at the rank that the budget allows; and the short list of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from subspace_tuning.advise.energy import Family, fitted
from subspace_tuning.advise.filters import Wanted
from subspace_tuning.advise.gradients import Gradients
from subspace_tuning.advise.prior import Evidence, Scores
from subspace_tuning.method import Method
from subspace_tuning.method.catalogue import Entry
from subspace_tuning.method.registry import METHODS
from subspace_tuning.methods.extend.lora import LowRank

LISTED = 3


@dataclass(frozen=True)
class Candidate:
    """A method at a rank, with what is known of it before training; ``memory`` where it was asked for."""

    entry: Entry
    method: Method
    parameters: int
    evidence: Evidence | None
    time: float | None
    family: Family | None = None
    memory: int | None = None

    @property
    def r(self) -> int | None:
        return getattr(self.method, "r", None)

    @property
    def told(self) -> str:
        return self.entry.name + ("" if self.r is None else f" r={self.r}")

    @property
    def data(self) -> str | dict[str, Any]:
        """The method as a recipe takes it."""
        return self.entry.name if self.r is None else {"name": self.entry.name, "r": self.r}

    @property
    def kin(self) -> type[Method]:
        """The family: all low-rank extensions with a trained A and B are one, and reach the same."""
        bases = [cls for cls in type(self.method).__mro__ if issubclass(cls, Method) and cls not in (Method, LowRank)]
        return bases[-1]


def at_budget(method: Method, found: Gradients, budget: int, rank: int) -> tuple[Method, int]:
    """The method at ``rank``, or the largest below it that the budget allows, and its parameters.

    Methods whose rank is no number of directions of G keep their own where the budget allows it. Raises ValueError
    where the rank that it allows, or a weight, is too small for the method.
    """
    for n, m in {seat.shape for seat in found.of(method)}:
        fitted(method, n, m).check(n, m)
    own = getattr(method, "r", None)
    if own is None:
        return method, parameters(method, found)

    def cost(r: int) -> int:
        try:
            return parameters(method.with_fields(r=r), found)
        except ValueError:  # a rank too small for the method
            return 0

    most = rank if isinstance(method, LowRank) and method.wide else own
    fitting = bisect_right(range(1, most + 1), budget, key=cost)
    method = method.with_fields(r=max(fitting, 1))
    return method, parameters(method, found)


def parameters(method: Method, found: Gradients) -> int:
    """What it trains on the weights that it takes by default."""
    shapes = Counter(seat.shape for seat in found.of(method))
    return sum(times * fitted(method, n, m).count(n, m) for (n, m), times in shapes.items())


def candidates(
    entries: Iterable[Entry], found: Gradients, wanted: Wanted, rank: int, measured: Scores, times: Mapping[str, float]
) -> tuple[list[Candidate], dict[str, str]]:
    """Those that nothing speaks against, and why the others are out."""
    kept, out = [], {}
    for entry in entries:
        method = METHODS[entry.name]()
        if entry.sits_on not in ("weight", "bias") or not entry.mergeable:
            out[entry.name] = "it is no map of a weight, of which a gradient could tell"
            continue
        if not found.of(method):
            out[entry.name] = f"the modules that it takes by default ({method.places}) are not among those looked at"
            continue
        try:
            method, trained = at_budget(method, found, wanted.budget, rank)
        except ValueError as error:
            out[entry.name] = str(error)
            continue
        if why := wanted.refuses(entry, trained, times.get(entry.name)):
            out[entry.name] = why
            continue
        evidence = measured.over_lora(entry.name, getattr(method, "r", None))
        kept.append(Candidate(entry, method, trained, evidence, times.get(entry.name)))
    return kept, out


def with_families(kept: Iterable[Candidate], families: Iterable[Family]) -> list[Candidate]:
    """The candidates with what was found of their methods' gradient energy."""
    known = {family.method.name: family for family in families}
    return [replace(c, family=known.get(c.entry.name)) for c in kept]


def ordered(kept: Iterable[Candidate], by_kappa: bool) -> list[Candidate]:
    """The best first: by what was measured, or by kappa and then by what was measured; then by fewer parameters."""

    def key(c: Candidate) -> tuple[float, ...]:
        lead = c.evidence.lead if c.evidence else float("-inf")
        kappa = c.family.kappa if c.family and c.family.kappa is not None else float("-inf")
        return (-kappa, -lead, c.parameters) if by_kappa else (-lead, c.parameters)

    return sorted(kept, key=key)


def short_list(
    kept: Iterable[Candidate], limit: int | None, memory: Callable[[Candidate], int | None]
) -> tuple[list[Candidate], dict[str, str]]:
    """The first three of different families whose steps fit into ``limit`` bytes, and why others before are out."""
    chosen: list[Candidate] = []
    out: dict[str, str] = {}
    for c in kept:
        if len(chosen) == LISTED:
            break
        if any(c.kin is other.kin for other in chosen):
            out[c.entry.name] = "its family is in the list already"
            continue
        needed = None if limit is None else memory(c)
        if limit is not None and (needed is None or needed > limit):
            known = "are not known" if needed is None else f"are {needed / 1e9:.2f} GB"
            out[c.entry.name] = f"the needs of a step {known}"
            continue
        chosen.append(replace(c, memory=needed))
    return chosen, out
