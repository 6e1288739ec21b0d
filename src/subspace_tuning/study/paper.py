"""The paper's own figures: Tables II-IV of arXiv:2407.05417, and how its names for methods and models are ours."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

import pandas as pd

from subspace_tuning.tasks.glue import GLUE

TABLES = {2: "roberta-base", 3: "deberta-v3-base", 4: "roberta-large"}
ON_THE_HUB = {
    "roberta-base": "FacebookAI/roberta-base",
    "deberta-v3-base": "microsoft/deberta-v3-base",
    "roberta-large": "FacebookAI/roberta-large",
}
RANKS = (2, 4, 8, 16)
SIZES = {"houlsby": 4, "pfeiffer": 8}  # of a bottleneck, times the rank whose block it stands in
TASKS = tuple(GLUE)


@lru_cache(maxsize=1)
def figures() -> pd.DataFrame:
    """model, method, rank (missing for methods without one), params_permille, a column a task, average; in %."""
    with (files("subspace_tuning") / "data" / "glue_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, comment="#").astype({"rank": "Int64"})


def as_runs() -> pd.DataFrame:
    """The figures in the form of gathered runs: each a run with seed 0, so that the same functions read both."""
    table = figures().melt(["model", "method", "rank"], list(TASKS), "task", "score").rename(columns={"rank": "r"})
    return table.assign(seed=0, score=table["score"] / 100)


def name_of(method: str) -> str:
    """The tables' name of a gathered method: without its fields; AdaLoRA without its regulariser is adalora-mpc_o."""
    free = method.startswith("adalora") and re.search(r"orthogonality=0(\.0)?[,)]", method)
    return "adalora-mpc_o" if free else re.sub(r"\([^)]*\)", "", method)


def method_fields(name: str, rank: int | None) -> dict[str, Any]:
    """The fields ``method`` and ``mpc`` of a recipe for a row of the tables.

    AdaLoRA starts at 1.5 times its rank, as in its authors' scripts; the paper gives its final budget alone.
    """
    base, _, mpc = name.replace("adalora-mpc_o", "adalora").partition("+mpc_")
    if rank is None:
        return {"method": base}
    size = rank * SIZES.get(base, 1)
    own: dict[str, Any] = {"init_r": rank * 3 // 2} if base == "adalora" else {}
    own |= {"orthogonality": 0.0} if name == "adalora-mpc_o" else {}
    return {"method": {"name": base, "r": size, **own}} | ({"mpc": mpc} if mpc else {})
