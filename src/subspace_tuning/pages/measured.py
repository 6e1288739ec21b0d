"""The package's own tables of what was measured, from the committed studies: what `subspace advise` goes by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from subspace_tuning.method.registry import METHODS
from subspace_tuning.study.statistics import finals, unlearned

MADE = "# made by `make docs` from {}\n"


def measured_csv(table: Mapping[str, Any], glue: pd.DataFrame) -> str:
    """Mean scores by task, method and rank: docs/data/method_table.json, and minilm_glue.csv where it was learned."""
    lost = {task for _, task in unlearned(glue)}
    kept = finals(glue[~glue["task"].isin(lost)])
    cells = kept.groupby(["task", "method", "r"], dropna=False, sort=True)[["score", "trainable"]].mean()
    rows = [
        (task, method, "" if pd.isna(r) else int(r), f"{score:.4f}", int(trainable))
        for (task, method, r), (score, trainable) in zip(cells.index, cells.to_numpy(), strict=True)
    ]
    for row in table["results"]:
        default = getattr(METHODS[row["method"]](), "r", "") if row["method"] in METHODS else ""
        rows.append(("movie_reviews", row["method"], default, f"{row['score']:.4f}", row["trainable"]))
    return _csv("method_table.json and minilm_glue.csv", ("task", "method", "r", "score", "trainable"), rows)


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
