"""What was measured: scores of methods over LoRA's, the time of their steps, and what predicts scores.

The tables are data of the package, which `make docs` writes from the committed studies (docs/data/).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean

LORA = "lora"
REFERENCE = 8  # the rank of LoRA that others are compared with


@dataclass(frozen=True)
class Score:
    """The mean over seeds of one method and rank on one task."""

    task: str
    method: str
    r: int | None
    score: float


@dataclass(frozen=True)
class Evidence:
    """How far a method was over LoRA, task by task."""

    points: dict[str, float]

    @property
    def mean(self) -> float:
        return fmean(self.points.values())

    @property
    def lead(self) -> float:
        """The mean, drawn towards LoRA where few tasks speak: k of them weigh k / (k + 1)."""
        k = len(self.points)
        return self.mean * k / (k + 1)


class Scores:
    """Measured scores; ``over_lora`` compares within each task."""

    def __init__(self, rows: Iterable[Score]):
        self.rows = list(rows)
        self.tasks = list(dict.fromkeys(row.task for row in self.rows))

    def without(self, task: str) -> Scores:
        return Scores(row for row in self.rows if row.task != task)

    def nearest(self, task: str, method: str, r: int | None) -> Score | None:
        """The row of the method whose rank is nearest."""
        own = [row for row in self.rows if row.task == task and row.method == method]
        return min(own, key=lambda row: abs(math.log((row.r or 1) / (r or row.r or 1))), default=None)

    def over_lora(self, method: str, r: int | None) -> Evidence | None:
        """None where no task has both."""
        found = {}
        for task in self.tasks:
            own, lora = self.nearest(task, method, r), self.nearest(task, LORA, REFERENCE)
            if own is not None and lora is not None:
                found[task] = own.score - lora.score
        return Evidence(found) if found else None


@dataclass(frozen=True)
class Predictor:
    """How well a number known before training ordered the methods of a study by what they came to.

    rho: Spearman's, with its 95 % interval.
    """

    study: str
    outcome: str
    name: str
    rho: float
    low: float
    high: float


@cache
def scores() -> Scores:
    return Scores(
        Score(row["task"], row["method"], int(row["r"]) if row["r"] else None, float(row["score"]))
        for row in _rows("measured")
    )


@cache
def times() -> dict[str, float]:
    """The time of a step over the floor, by method."""
    return {row["method"]: float(row["time_ratio"]) for row in _rows("steps")}


@cache
def predictors() -> list[Predictor]:
    return [
        Predictor(row["study"], row["outcome"], row["predictor"], *(float(row[k]) for k in ("rho", "low", "high")))
        for row in _rows("predictors")
    ]


LEAD = "kappa less parameters"  # the predictor that is the difference of two


def kappa_leads(found: Iterable[Predictor]) -> bool:
    """Whether kappa has ordered methods better than their number of parameters did, beyond chance, over all tasks."""
    return any(p.study == "all" and p.name == LEAD and p.low > 0 for p in found)


def _rows(name: str) -> list[dict[str, str]]:
    with (files("subspace_tuning") / "data" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
