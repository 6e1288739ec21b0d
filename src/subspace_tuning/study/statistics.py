"""What finished runs say: means with intervals, paired differences, shares of full fine-tuning, the noise of seeds.

Every function takes the frame of ``sweep.results.gather``: one row a run with model, method, r, task, seed, score.
Runs of a tuning are left out. The same seed of two methods on a task is a pair: head and order of data are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as students_t
from statsmodels.stats.multitest import multipletests

from subspace_tuning.errors import BadInput
from subspace_tuning.run.recipe import FULL, HEAD
from subspace_tuning.study.resampling import mean_intervals, ratio_intervals, sign_flip_ps, smallest_p

ARM = ["model", "method", "r"]
CELL = [*ARM, "task"]
NEEDED = [*CELL, "seed", "score"]
ALPHA = 0.05
CHANCE = {"rte": 0.527, "sst2": 0.509}  # the share of the more frequent answer among GLUE's validation rows
TOO_FEW = "too few runs to tell"
Blocks = Sequence[NDArray]  # one a task: (seeds, arms), the baseline's column last; see paired


class Arm(NamedTuple):
    """One method at one rank on one model, over all tasks and seeds."""

    model: str
    method: str
    r: int | None

    @property
    def name(self) -> str:
        return self.method if self.r is None else f"{self.method} r={self.r}"


class Estimate(NamedTuple):
    """An effect with its 95 % interval, and the number of pairs that it rests on."""

    effect: float
    low: float
    high: float
    pairs: int

    @property
    def too_few(self) -> str:
        """Why these runs cannot settle anything at the 5 % level; nothing where they can."""
        least = smallest_p(self.pairs)
        if least <= ALPHA:
            return ""
        pairs = "1 pair" if self.pairs == 1 else f"{self.pairs} pairs"
        return f"{TOO_FEW}: with {pairs} the smallest attainable p is {least:.2g}"


def finals(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that count, each (model, method, r, task, seed) once.

    Where a method and rank stand for several settings, the runs' labels take the place of the method's name, and where
    these are the same, the learning rate is added to it. Raises BadInput where that does not tell them apart.
    """
    missing = [name for name in NEEDED if name not in runs]
    if missing:
        raise BadInput(
            f"the runs have no column {', '.join(missing)}; expected a frame as sweep.results.gather makes it"
        )
    kept = runs[runs["kind"] == "final"] if "kind" in runs else runs
    kept = kept.assign(r=kept["r"].astype("Int64"), score=kept["score"].astype(float))
    for column in ("label", "learning_rate"):
        twice = kept.duplicated([*CELL, "seed"], keep=False)
        if twice.any() and column in kept:
            known = kept[ARM].apply(tuple, axis=1)
            told = kept["label"] if column == "label" else kept["method"] + kept["learning_rate"].map(" lr={:g}".format)
            kept = kept.assign(method=kept["method"].where(~known.isin(set(known[twice])), told))
    twice = kept.duplicated([*CELL, "seed"])
    if twice.any():
        first = kept[twice].iloc[0]
        raise BadInput(
            f"{first.method} on {first.task} was run more than once with seed {first.seed}, and neither label nor "
            "learning rate tells the runs apart; gather the one or the other"
        )
    return kept.sort_values([*CELL, "seed"], ignore_index=True)


def arms(runs: pd.DataFrame) -> dict[Arm, pd.Series]:
    """Each arm's scores by (task, seed)."""
    return {
        Arm(model, method, None if pd.isna(r) else int(r)): group.set_index(["task", "seed"])["score"]
        for (model, method, r), group in finals(runs).groupby(ARM, dropna=False, sort=True)
    }


def paired(*scores: pd.Series) -> Blocks:
    """A block a task: a row a seed that all have, a column each; without tasks of one such seed if others have more."""
    together = pd.concat(scores, axis=1, join="inner", keys=range(len(scores))).sort_index()
    _, starts = np.unique(together.index.get_level_values("task"), return_index=True)
    blocks = np.split(together.to_numpy(), starts[1:]) if len(together) else []
    return [block for block in blocks if len(block) > 1] or blocks


def difference(many: Sequence[Blocks]) -> list[Estimate]:
    """Means over blocks of the mean paired difference, first columns (their mean) minus the last."""
    strata = [differences_of(blocks) for blocks in many]
    means = [float(np.mean([d.mean() for d in each])) if each else np.nan for each in strata]
    return [Estimate(m, *i, pairs(b)) for m, i, b in zip(means, mean_intervals(strata), many, strict=True)]


def share(many: Sequence[Blocks]) -> list[Estimate]:
    """Average of the first columns over blocks, divided by the average of the last; NaN unless that is positive."""
    strata = [[np.stack([block[:, :-1].mean(axis=1), block[:, -1]]) for block in blocks] for blocks in many]
    sums = [np.sum([pair.mean(axis=-1) for pair in each], axis=0) if each else (np.nan, np.nan) for each in strata]
    intervals = ratio_intervals([each if b > 0 else [] for each, (_, b) in zip(strata, sums, strict=True)])
    ratios = [float(a / b) if b > 0 else np.nan for a, b in sums]
    return [Estimate(ratio, *i, pairs(b)) for ratio, i, b in zip(ratios, intervals, many, strict=True)]


def spread(many: Sequence[Blocks]) -> list[Estimate]:
    """Geometric means over blocks of the ratio of standard deviations, first columns to the last.

    A block is the unit here, since its standard deviation is one number; one without any spread on a side says nothing.
    """
    logs = []
    for blocks in many:
        deviations = [block.std(axis=0, ddof=1) for block in blocks if len(block) > 1]
        kept = [np.log(d) for d in deviations if np.all(d > 0)]
        logs.append(np.array([d[:-1].mean() - d[-1] for d in kept]))
    intervals = mean_intervals([[each] if len(each) else [] for each in logs])
    effects = [float(np.exp(each.mean())) if len(each) else np.nan for each in logs]
    return [
        Estimate(effect, float(np.exp(low)), float(np.exp(high)), len(each))
        for effect, (low, high), each in zip(effects, intervals, logs, strict=True)
    ]


def differences_of(blocks: Blocks) -> list[NDArray]:
    return [block[:, :-1].mean(axis=1) - block[:, -1] for block in blocks]


def pairs(blocks: Blocks) -> int:
    return sum(map(len, blocks))


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """model, method, r, task: n, mean, sem (standard error), std, low, high (95 % bootstrap interval of the mean)."""
    groups = finals(runs).groupby(CELL, dropna=False, sort=True)["score"]
    table = groups.agg(n="size", mean="mean", sem="sem", std="std").reset_index()
    intervals = mean_intervals([[np.array(scores)] for scores in groups.agg(list)])
    return table.assign(low=[i.low for i in intervals], high=[i.high for i in intervals])


def averages(runs: pd.DataFrame) -> pd.DataFrame:
    """model, method, r: tasks, n (runs), mean over tasks of their means, sem, low, high; complete: has every task."""
    scores = arms(runs)
    strata = [[group.to_numpy() for _, group in s.groupby("task")] for s in scores.values()]
    tasks = {model: len(group["task"].unique()) for model, group in finals(runs).groupby("model")}
    rows = []
    for arm, each, interval in zip(scores, strata, mean_intervals(strata), strict=True):
        sem = np.sqrt(sum(x.var(ddof=1) / len(x) if len(x) > 1 else np.nan for x in each)) / len(each)
        mean, n = float(np.mean([x.mean() for x in each])), sum(map(len, each))
        rows.append((*arm, len(each), n, mean, sem, *interval, len(each) == tasks[arm.model]))
    return _frame(rows, [*ARM, "tasks", "n", "mean", "sem", "low", "high", "complete"])


def differences(runs: pd.DataFrame, baseline: str = FULL) -> pd.DataFrame:
    """Each arm beside a baseline method, over the tasks and seeds that both have; at the same rank where both have one.

    effect, low, high: mean paired difference; p: sign flips, exact up to 13 pairs; p_holm: over a model's arms;
    told: better, worse, not told apart, or that the runs are too few, with p then left out.
    """
    table, many = _beside(runs, baseline, difference)
    enough = np.flatnonzero(table["told"] == "")
    table["p"] = table["p_holm"] = np.nan
    table.loc[enough, "p"] = sign_flip_ps([differences_of(many[i]) for i in enough])
    for _, group in table.loc[enough].groupby("model"):
        table.loc[group.index, "p_holm"] = multipletests(group["p"], method="holm")[1]
    sure = np.where(table["effect"] > 0, "better", "worse")
    table.loc[enough, "told"] = np.where(table["p_holm"] > ALPHA, "not told apart", sure)[enough]
    return table


def shares(runs: pd.DataFrame, baseline: str = FULL) -> pd.DataFrame:
    """Each arm's average as a share of a baseline's (effect, low, high), over the tasks and seeds that both have."""
    return _beside(runs, baseline, share)[0]


def _beside(
    runs: pd.DataFrame, baseline: str, measure: Callable[[Sequence[Blocks]], list[Estimate]]
) -> tuple[pd.DataFrame, list[Blocks]]:
    """The frame of each arm beside the baseline's, and the paired scores behind each row."""
    scores = arms(runs)
    beside = [(a, b) for a in scores for b in scores if b.method == baseline != a.method and comparable(a, b)]
    many = [paired(scores[arm], scores[base]) for arm, base in beside]
    rows = [
        (*arm, base.method, base.r, len(blocks), e.pairs, e.effect, e.low, e.high, smallest_p(e.pairs), e.too_few)
        for (arm, base), blocks, e in zip(beside, many, measure(many), strict=True)
    ]
    names = ["baseline", "baseline_r", "tasks", "pairs", "effect", "low", "high", "smallest_p", "told"]
    return _frame(rows, [*ARM, *names]), many


def noise(runs: pd.DataFrame) -> pd.DataFrame:
    """model, task: std of scores over seeds alone, pooled over arms; dof; n (seeds an arm has, median); floor.

    floor = t_{0.975, dof} std sqrt(2 / n): a smaller difference between two means of n seeds may be chance.
    """
    cells = summary(runs)
    rows = []
    for (model, task), group in cells[cells["n"] > 1].groupby(["model", "task"]):
        dof = int((group["n"] - 1).sum())
        std = float(np.sqrt(((group["n"] - 1) * group["std"] ** 2).sum() / dof))
        n = float(group["n"].median())
        rows.append((model, task, std, dof, n, float(students_t.ppf(1 - ALPHA / 2, dof)) * std * np.sqrt(2 / n)))
    return pd.DataFrame(rows, columns=["model", "task", "std", "dof", "n", "floor"])


def unlearned(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """(model, task) where full fine-tuning does not beat the linear probe and chance by more than the noise of seeds.

    Scores there say little of methods, since nothing was learned. Left out where one of the two was not run.
    """
    cells = summary(runs)
    means = cells[cells["method"].isin([FULL, HEAD])].pivot_table(
        index=["model", "task"], columns="method", values="mean"
    )
    if not {FULL, HEAD} <= set(means):
        return []
    floors = noise(runs).set_index(["model", "task"])["floor"]
    chance = means.index.get_level_values("task").map(lambda task: CHANCE.get(task, -np.inf))
    gaps = (means[FULL] - np.maximum(means[HEAD], chance)).dropna()
    return [place for place, gap in gaps.items() if place in floors and gap <= floors[place]]


def comparable(arm: Arm, base: Arm) -> bool:
    return arm.model == base.model and (arm.r is None or base.r is None or arm.r == base.r)


def _frame(rows: Sequence[tuple], columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns)
    ranks = [name for name in ("r", "baseline_r") if name in table]
    return table.astype(dict.fromkeys(ranks, "Int64"))


__all__ = [
    "Arm",
    "Estimate",
    "arms",
    "averages",
    "difference",
    "differences",
    "finals",
    "noise",
    "paired",
    "share",
    "shares",
    "spread",
    "summary",
    "unlearned",
]
