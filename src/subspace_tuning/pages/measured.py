"""The package's own tables of what was measured, from the committed studies: what `subspace advise` goes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from subspace_tuning.method.registry import METHODS
from subspace_tuning.run.recipe import NONE
from subspace_tuning.study.statistics import finals, unlearned

MADE = "# made by `make docs` from {}\n"


def measured_csv(table: Mapping[str, Any], studies: Mapping[str, pd.DataFrame]) -> str:
    """Mean scores by task, method and rank: docs/data/method_table.json, and studies where the task was learned.

    studies: by what they are called. A method counts where it was judged with all seeds.
    """
    rows = [(name, *row) for name, runs in studies.items() for row in _means(runs)]
    for row in table["results"]:
        default = getattr(METHODS[row["method"]](), "r", "") if row["method"] in METHODS else ""
        rows.append(("all methods", "movie_reviews", row["method"], default, f"{row['score']:.4f}", row["trainable"]))
    header = ("study", "task", "method", "r", "score", "trainable")
    return _csv("method_table.json, minilm_glue.csv and lm_study.csv", header, rows)


def _means(runs: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    lost = {task for _, task in unlearned(runs)}
    kept = finals(runs[~runs["task"].isin(lost) & (runs["method"] != NONE)])
    cells = kept.groupby(["task", "method", "r"], dropna=False, sort=True)[["score", "trainable"]]
    means, seeds = cells.mean(), cells.size()
    is_whole = seeds == seeds.groupby(level="task").transform("max")
    for (task, method, r), (score, trainable) in zip(means.index[is_whole], means[is_whole].to_numpy(), strict=True):
        yield task, method, "" if pd.isna(r) else int(r), f"{score:.4f}", int(trainable)


def steps_csv(steps: Mapping[str, Any]) -> str:
    """The time of a step over the floor: docs/data/step.json."""
    ours = [line for line in steps["contenders"] if line["source"] == "ours"]
    return _csv("step.json", ("method", "time_ratio"), ((line["name"], f"{line['time_ratio']:.3f}") for line in ours))


def predictors_csv(judged: Mapping[str, Any]) -> str:
    """How well kappa and the number of parameters order methods: docs/data/advise.json."""
    header = ("study", "outcome", "predictor", "rho", "low", "high")
    rows = (
        (row["study"], row["outcome"], name, *(f"{found[k]:.3f}" for k in ("rho", "low", "high")))
        for row in judged["correlations"]
        for name, found in row["predictors"].items()
        if found is not None
    )
    return _csv("advise.json", header, rows)


def _csv(source: str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    return MADE.format(source) + "".join(",".join(map(str, row)) + "\n" for row in (header, *rows))
