"""Ranks of methods over tasks: Friedman's test and the critical difference of Nemenyi's.

Source: J. Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from subspace_tuning.study.statistics import ALPHA, Arm, summary


@dataclass(frozen=True)
class Ranking:
    """Mean ranks (1 is best), best first, over blocks of one task on one model each.

    groups: the largest sets of arms that are not told apart, first and last place in the order; for the bars of a
    critical-difference diagram. told: what the test came to, in words.
    """

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    blocks: int
    statistic: float
    p: float
    critical_difference: float
    groups: tuple[tuple[int, int], ...]
    told: str


def ranking(runs: pd.DataFrame) -> Ranking:
    """Arms that were run on every task, ranked by their mean score on each; a task on another model is a block more."""
    cells = summary(runs)
    names = [
        Arm("", method, None if pd.isna(r) else int(r)).name
        for method, r in zip(cells["method"], cells["r"], strict=True)
    ]
    table = cells.assign(arm=names).pivot_table(index=["model", "task"], columns="arm", values="mean").dropna(axis=1)
    blocks, count = table.shape
    if count < 3 or blocks < 2:
        told = f"too few to rank: tasks that all methods share {blocks} (2 are needed), methods {count} (3)"
        return Ranking(tuple(table.columns), (np.nan,) * count, blocks, np.nan, np.nan, np.nan, (), told)
    ranks = pd.Series(rankdata(-table.to_numpy(), axis=1).mean(axis=0), index=table.columns).sort_values(kind="stable")
    test = friedmanchisquare(*table.to_numpy().T)
    distance = critical_difference(count, blocks)
    told = (
        f"Friedman's test over {blocks} tasks: p = {test.pvalue:.2g}; mean ranks that differ by less than "
        f"{distance:.2f} are not told apart"
    )
    groups = not_told_apart(ranks.to_list(), distance)
    statistic, p = float(test.statistic), float(test.pvalue)
    return Ranking(tuple(ranks.index), tuple(ranks), blocks, statistic, p, distance, groups, told)


def critical_difference(methods: int, blocks: int) -> float:
    """q_alpha sqrt(k (k + 1) / (6 N)), q_alpha of the studentized range divided by sqrt 2."""
    q = studentized_range.ppf(1 - ALPHA, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def not_told_apart(ranks: list[float], distance: float) -> tuple[tuple[int, int], ...]:
    """The maximal stretches (first, last) of ascending ranks that span at most the distance, of two or more."""
    stretches: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank <= distance)
        if last > first and (not stretches or last > stretches[-1][1]):
            stretches.append((first, last))
    return tuple(stretches)


__all__ = ["Ranking", "critical_difference", "not_told_apart", "ranking"]
