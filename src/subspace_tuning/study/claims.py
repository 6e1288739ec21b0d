"""The paper's claims, and whether runs bear them out: holds, does not hold, or cannot tell.

A claim is an effect beside a line. Its 95 % interval decides: wholly on the right side, wholly on the other, or across.
Where a test of the same pairs could not reach p = 0.05 whatever they say, nothing is decided.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import pandas as pd

from subspace_tuning.run.recipe import FULL
from subspace_tuning.study import paper
from subspace_tuning.study.statistics import (
    Arm,
    Blocks,
    Estimate,
    arms,
    comparable,
    difference,
    paired,
    share,
    spread,
)

HOLDS: Final = "holds"
FAILS: Final = "does not hold"
OPEN: Final = "cannot tell"
Ruling = Literal["holds", "does not hold", "cannot tell"]
Pairs = list[tuple[Arm, Arm]]


@dataclass(frozen=True)
class Measure:
    """An effect: its name, how it is estimated and from how many of what, and how its numbers are shown."""

    name: str
    unit: str
    of: Callable[[Sequence[Blocks]], list[Estimate]]
    show: Callable[[float], str]


SHARE = Measure("of full fine-tuning's average", "pair", share, lambda x: f"{100 * x:.1f} %")
POINTS = Measure("points", "pair", difference, lambda x: f"{100 * x:+.2f}")
SPREAD = Measure("times the standard deviation over seeds", "cell", spread, lambda x: f"{x:.2f}")


@dataclass(frozen=True)
class Claim:
    """effect ``side`` line, for the pairs (arm, the arm it is compared with) that ``beside`` finds."""

    claim: str
    measure: Measure
    side: Callable[[float, float], bool]
    line: float
    needs: tuple[str, ...]
    beside: Callable[[Iterable[Arm]], Pairs]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An effect in the claim's own measure (a share, a difference of scores, a ratio; NaN where there is none), its
    interval, the runs behind it, the verdict and what decided it.
    """

    verdict: Ruling
    effect: float
    low: float
    high: float
    runs: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Finding(Judged):
    """What one comparison came to: on one model, of one method at one rank."""

    about: str


@dataclass(frozen=True, kw_only=True)
class Verdict(Judged):
    """What all comparisons of a claim came to together.

    text: the effect in words; paper: the same effect in the paper's tables; parts: the comparisons one by one.
    """

    claim: str
    text: str
    paper: str
    parts: tuple[Finding, ...] = ()


def _beside(method: str, other: str) -> Callable[[Iterable[Arm]], Pairs]:
    def find(known: Iterable[Arm]) -> Pairs:
        known = list(known)
        return [(a, b) for a in known for b in known if (a.method, b.method) == (method, other) and comparable(a, b)]

    return find


def _constrained_and_free(known: Iterable[Arm]) -> Pairs:
    known = list(known)
    return [(a, b) for a in known for b in known if _is_without_mpc(a.method, b.method) and comparable(a, b)]


def _is_without_mpc(method: str, other: str) -> bool:
    """Whether ``other`` is the method without its MPC; AdaLoRA has MPC_o on board."""
    free, constrained, _ = method.partition("+mpc_")
    return (bool(constrained) and free == other) or (method, other) == ("adalora", "adalora-mpc_o")


def reaches(title: str, method: str, percent: int) -> Claim:
    line, find = percent / 100, _beside(method, FULL)
    return Claim(f"{title} reaches {percent} % of full fine-tuning", SHARE, operator.ge, line, (method, FULL), find)


def beats(title: str, method: str, other: str, side: Callable[[float, float], bool]) -> Claim:
    return Claim(title, POINTS, side, 0.0, (method, other), _beside(method, other))


_MPC = ("a method with MPC", "the same without")
MPC_RAISES_THE_MEAN = Claim("MPC raises the mean", POINTS, operator.gt, 0.0, _MPC, _constrained_and_free)
CLAIMS = (
    reaches("SSB", "ssb", 99),
    reaches("SSL", "ssl", 95),
    Claim(  # the paper names no line; its own figures are 72 to 84 %
        "Adjusting singular values alone (SAM-PARSER) is far behind: below 90 % of full fine-tuning",
        SHARE,
        operator.lt,
        0.9,
        ("sam_parser", FULL),
        _beside("sam_parser", FULL),
    ),
    beats("SSB beats SSL", "ssb", "ssl", operator.gt),
    beats("SSB beats (IA)3", "ssb", "ia3", operator.gt),
    beats("FLoRA is at least as good as AdaLoRA", "flora", "adalora", operator.ge),
    beats("TriLoRA is at least as good as LoRA", "trilora", "lora", operator.ge),
    beats("DoRA is at least as good as LoRA", "dora", "lora", operator.ge),
    MPC_RAISES_THE_MEAN,
    Claim("MPC lowers the spread over seeds", SPREAD, operator.lt, 1.0, _MPC, _constrained_and_free),
)


def verdicts(runs: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """A verdict for each claim, from the gathered runs of any study that has the methods in question."""
    scores = arms(runs.assign(method=runs["method"].map(paper.name_of)))
    return [_verdict(claim, scores) for claim in claims]


def _verdict(claim: Claim, scores: dict[Arm, pd.Series]) -> Verdict:
    told = _paper_says(claim)
    found = claim.beside(scores)
    whole = _blocks(scores, found)
    if not whole:
        known = {arm.method for arm in scores}
        missing = [name for name in claim.needs if name not in known] or ["both with the same rank, task and seed"]
        nothing = _judged(claim, Estimate(math.nan, math.nan, math.nan, 0), [])
        nothing["why"] = f"no runs of {', '.join(missing)}"
        return Verdict(claim=claim.claim, text="not run", paper=told, **nothing)
    each = [_blocks(scores, [pair]) for pair in found]
    *estimates, pooled = claim.measure.of([*each, whole])
    parts = tuple(
        Finding(about=_about(*pair), **_judged(claim, estimate, blocks))
        for pair, estimate, blocks in zip(found, estimates, each, strict=True)
    )
    text = f"{shown(claim.measure, pooled)} over {pooled.pairs} {claim.measure.unit}{'s' * (pooled.pairs != 1)}"
    details = parts if len(parts) > 1 else ()
    return Verdict(claim=claim.claim, text=text, paper=told, parts=details, **_judged(claim, pooled, whole))


def _judged(claim: Claim, e: Estimate, blocks: Blocks) -> dict[str, Any]:
    """The fields of ``Judged``."""
    verdict, why = ruling(claim, e)
    runs = sum(block.size for block in blocks)
    return {"verdict": verdict, "effect": e.effect, "low": e.low, "high": e.high, "runs": runs, "why": why}


def _blocks(scores: dict[Arm, pd.Series], pairs: Pairs) -> Blocks:
    """The paired scores; arms beside the same other one stand in one block, since its runs are the same."""
    sides: dict[Arm, list[Arm]] = {}
    for arm, base in pairs:
        sides.setdefault(base, []).append(arm)
    return [block for base, each in sides.items() for block in paired(*(scores[arm] for arm in each), scores[base])]


def ruling(claim: Claim, e: Estimate) -> tuple[Ruling, str]:
    """The verdict on an estimate, and what decided it."""
    if e.too_few:
        return OPEN, e.too_few
    if math.isnan(e.low):
        return OPEN, "one run a task has no interval" if math.isfinite(
            e.effect
        ) else "there is no such effect in these scores"
    ends = {claim.side(end, claim.line) for end in (e.low, e.high)}
    line = claim.measure.show(claim.line)
    if len(ends) > 1:
        return OPEN, f"the interval has {line} inside"
    verdict: Ruling = HOLDS if ends == {True} else FAILS
    return verdict, f"the whole interval is {'above' if e.low >= claim.line else 'below'} {line}"


def shown(measure: Measure, e: Estimate) -> str:
    """``98.2 % [97.1 %, 99.0 %] of full fine-tuning's average``."""
    if math.isnan(e.effect):
        return "no effect to be had"
    interval = "" if math.isnan(e.low) else f" [{measure.show(e.low)}, {measure.show(e.high)}]"
    return f"{measure.show(e.effect)}{interval} {measure.name}"


def _about(arm: Arm, base: Arm) -> str:
    return f"{arm.name} beside {base.name} on {arm.model}"


@cache
def _paper_arms() -> dict[Arm, pd.Series]:
    return arms(paper.as_runs())


@cache
def _paper_says(claim: Claim) -> str:
    """The claim's effect in the paper's tables, model by model, over all their tasks and ranks."""
    if claim.measure is SPREAD:
        return "said in words; its tables give means without a spread"
    found = claim.beside(_paper_arms())
    if not found:
        return "not in its tables"
    models = list(dict.fromkeys(arm.model for arm, _ in found))
    blocks = [_blocks(_paper_arms(), [pair for pair in found if pair[0].model == model]) for model in models]
    effects = [claim.measure.show(e.effect) for e in claim.measure.of(blocks)]
    told = ", ".join(f"{effect} ({model})" for effect, model in zip(effects, models, strict=True))
    return f"{told} {claim.measure.name}"
