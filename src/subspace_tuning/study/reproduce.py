"""The paper's experiments again: its protocol as a sweep, and what comes out beside its Tables II-IV.

Hyper-parameters are those of its Tables V and VI (see recipe.py), budgets those of its columns, scores those of the
development sets (MNLI matched) after the last step. The paper gives neither the length at which texts are cut nor the
learning rate of full fine-tuning: here 256 tokens, and 5e-5.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.files.aside import write
from subspace_tuning.study import paper
from subspace_tuning.study.claims import Verdict, verdicts
from subspace_tuning.study.statistics import summary
from subspace_tuning.sweep.recipe import SweepRecipe, make

MAX_LENGTH = 256


@dataclass(frozen=True)
class Protocol:
    """What of the paper to run, and on what: ``models`` maps the names of its tables to checkpoints."""

    models: Mapping[str, str]
    tasks: Sequence[str]
    rows: Sequence[tuple[str, int | None]]  # method and rank, as in the tables
    seeds: int
    output: str
    data: str | None = None

    def sweep(self) -> SweepRecipe:
        values: dict[str, Any] = {
            "output": self.output,
            "base": {"max_length": MAX_LENGTH, "evaluate_every": "end", "save_every": 500}
            | ({"data": self.data} if self.data else {}),
            "models": list(self.models.values()),
            "tasks": list(self.tasks),
            "methods": [paper.method_fields(name, rank) for name, rank in self.rows],
            "seeds": list(range(self.seeds)),
        }
        return make(values)


def protocol(
    output: str,
    *,
    tables: Sequence[int] = (),
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    ranks: Sequence[int] = (),
    seeds: int = 5,
    model_path: str | None = None,
    data: str | None = None,
) -> Protocol:
    """The part of the paper that is named, all of it without names. Raises BadInput for a name it does not have.

    model_path: any local encoder in place of the table's model, then of one table only, the first without a name.
    """
    known = list(dict.fromkeys(paper.figures()["method"]))
    for given, all_of_them, what in (
        (tables, paper.TABLES, "table"),
        (models, paper.ON_THE_HUB, "model"),
        (tasks, paper.TASKS, "task"),
        (methods, known, "method"),
        (ranks, paper.RANKS, "rank"),
    ):
        for name in given:
            if name not in all_of_them:
                listed = ", ".join(map(str, all_of_them))
                hint = nearest(str(name), map(str, all_of_them))
                raise BadInput(f"the paper's tables have no {what} {name!r}: {hint}they have {listed}")
    if seeds < 1:
        raise BadInput(f"seeds is a number of runs, 1 or more, got {seeds}")
    chosen = [name for number, name in paper.TABLES.items() if number in (tables or paper.TABLES)]
    chosen = [name for name in chosen if name in (models or chosen)]
    if not chosen:
        raise BadInput(
            f"no model of {', '.join(models)} is in table {', '.join(map(str, tables))}; name one of the two"
        )
    if model_path is not None:
        if len(chosen) > 1 and (tables or models):
            raise BadInput(f"--model-path stands for one model, but {', '.join(chosen)} are asked for; name one")
        chosen = chosen[:1]
    rows = [
        (str(name), None if pd.isna(rank) else int(rank))
        for name, rank in paper.figures()[["method", "rank"]].drop_duplicates().itertuples(index=False)
        if name in (methods or known) and (pd.isna(rank) or rank in (ranks or paper.RANKS))
    ]
    where = {name: model_path or paper.ON_THE_HUB[name] for name in chosen}
    return Protocol(where, list(tasks or paper.TASKS), rows, seeds, output, data)


def check(wanted: Protocol) -> None:
    """Raises BadInput before anything is run where a model or the data of a task is not to be had."""
    from subspace_tuning.run.pretrained import load_tokenizer
    from subspace_tuning.tasks import load, task_of

    for name in wanted.models.values():
        try:
            load_tokenizer(name)
        except BadInput as error:
            raise BadInput(f"{error}; go online, or name a local encoder with --model-path") from error
    for task in wanted.tasks:
        load(task_of(task), wanted.data, train_samples=1, eval_samples=1)


def beside(runs: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """model, method, rank, task: n, mean and sem of the runs in %, and the paper's figure; rows as in the tables.

    ``average`` is a task of its own, where a method has runs on every task that any has.
    """
    names = {checkpoint: name for name, checkpoint in models.items()}
    kept = runs[runs["model"].isin(names)]
    kept = kept.assign(model=kept["model"].map(names), method=kept["method"].map(paper.name_of))
    cells = summary(kept)
    cells["rank"] = cells["r"] // cells["method"].map(paper.SIZES).fillna(1).astype("Int64")
    tasks = cells["task"].unique()
    rows = [dict(r, ours=100 * r["mean"], sem=100 * r["sem"]) for r in cells.to_dict("records")]
    for _, group in cells.groupby(["model", "method", "rank"], dropna=False):
        if len(tasks) > 1 and len(group) == len(tasks):
            sem = 100 * np.sqrt((group["sem"] ** 2).sum(skipna=False)) / len(tasks)
            about = group.iloc[0][["model", "method", "rank"]].to_dict()
            rows.append(
                {**about, "task": "average", "n": group["n"].sum(), "ours": 100 * group["mean"].mean(), "sem": sem}
            )
    ours = pd.DataFrame(rows, columns=["model", "method", "rank", "task", "n", "ours", "sem"]).astype({"rank": "Int64"})
    theirs = paper.figures().melt(["model", "method", "rank"], [*tasks, "average"], "task", "paper")
    if set(tasks) < set(paper.TASKS):  # an average over fewer tasks is another one
        some = theirs[theirs["task"].isin(tasks)].groupby(["model", "method", "rank"], dropna=False, sort=False)
        average = some["paper"].mean().reset_index().assign(task="average")
        theirs = pd.concat([theirs[theirs["task"] != "average"], average])
    order = paper.figures()[["model", "method", "rank"]].assign(order=range(len(paper.figures())))
    table = ours.merge(theirs, how="left", on=["model", "method", "rank", "task"]).merge(order, how="left")
    return table.sort_values(["order", "task"], kind="stable", ignore_index=True).drop(columns="order")


def outcome(wanted: Protocol, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[Verdict]]:
    """The figures beside the paper's and the verdicts, written to results.json and verdicts.json in the output."""
    table, found = beside(runs, wanted.models), verdicts(runs)
    folder = Path(wanted.output)
    write(folder / "results.json", table.to_json(orient="records", indent=2) + "\n")
    write(folder / "verdicts.json", json.dumps([plain(verdict) for verdict in found], indent=2) + "\n")
    return table, found


def plain(verdict: Verdict) -> dict[str, Any]:
    """As data; a number that is none is null, since JSON has no NaN."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: told(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [told(inner) for inner in value]
        return None if isinstance(value, float) and np.isnan(value) else value

    return told(dataclasses.asdict(verdict))


def lines(table: pd.DataFrame) -> list[list[str]]:
    """The table for people: a header, then a row a method and rank, ``ours (paper's)`` in each cell."""
    tasks = [*(task for task in paper.TASKS if task in set(table["task"])), "average"]
    tasks = [task for task in tasks if task in set(table["task"])]
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.itertuples():
        name = row.method if pd.isna(row.rank) else f"{row.method} r={row.rank}"
        theirs = "" if pd.isna(row.paper) else f" ({row.paper:.1f})"
        shown.setdefault((row.model, name), {})[row.task] = f"{row.ours:.1f}{theirs}"
    body = [[model, name, *(cells.get(task, "") for task in tasks)] for (model, name), cells in shown.items()]
    return [["model", "method", *tasks], *body]


def run(wanted: Protocol, jobs: int | None, max_hours: float | None, say: Callable[[str], None]) -> bool:
    """Perform the missing runs on this machine; whether all of them came through."""
    return perform(wanted.sweep(), jobs, max_hours, say)


def perform(recipe: SweepRecipe, jobs: int | None, max_hours: float | None, say: Callable[[str], None]) -> bool:
    """Perform what is missing of a sweep on this machine; whether all of it came through."""
    from subspace_tuning.sweep.pool import LocalPool, usual_jobs
    from subspace_tuning.sweep.sweep import Sweep

    sweep = Sweep(recipe)
    workers = jobs or usual_jobs(sorted({cell.some.model for cell in sweep.plan.cells}))

    def told(progress: Any, run: Any, ended: Any) -> None:
        if ended is not None:
            failed = f"  {ended.said}" if run.name in progress.failed else ""
            say(f"{progress.finished}/{progress.total}  {run.name}{failed}")

    found = sweep.run(lambda: LocalPool(Path(recipe.output), workers), told, max_hours)
    if found.time_is_up:
        say("the time is up; the same command goes on where it stopped")
    return found.is_complete
