"""The leaderboard: what a method scores by the fixed protocol of the MiniLM study, as JSON that can be checked.

The protocol is recipes/minilm_glue.yaml with one contender: four tasks, three learning rates each, chosen by rows held
out of training with a seed of tuning's own, and three seeds. An entry holds every run's score, so that whatever is said
of it follows from it: the rates chosen, means over seeds, the mean over tasks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subspace_tuning.errors import BadInput
from subspace_tuning.files.markdown import table
from subspace_tuning.run.recipe import FULL, told
from subspace_tuning.sweep.recipe import SweepRecipe, read_sweep

if TYPE_CHECKING:
    import pandas

PROTOCOL, FOLDER = Path("recipes/minilm_glue.yaml"), Path("leaderboard")
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Run(BaseModel):
    """One run: which task and seed, with which learning rate, and its score, the task's own metric."""

    model_config = _STRICT

    kind: Literal["tuning", "final"]
    task: str
    seed: int
    learning_rate: float = Field(gt=0)
    metric: str
    score: float = Field(ge=-1, le=1)


class Entry(BaseModel):
    """A method on the leaderboard; means and mean over tasks are its runs', written down to be read."""

    model_config = _STRICT

    method: str  # as tables show it: lora(r=8)
    category: str
    trainable: int = Field(ge=0)
    total: int = Field(gt=0)
    by: str  # whose entry: a name, or an address of a paper or of code
    means: dict[str, float]
    mean: float
    runs: list[Run]

    def of(self, kind: str, task: str) -> list[Run]:
        return [run for run in self.runs if (run.kind, run.task) == (kind, task)]

    def scores(self, task: str) -> list[float]:
        return [run.score for run in self.of("final", task)]


def protocol(methods: list[Any], output: str, data: str | None = None, path: Path = PROTOCOL) -> SweepRecipe:
    """The study's recipe with other contenders. Raises BadInput where the recipe is not there: it lies in a clone."""
    if not path.is_file():
        raise BadInput(f"there is no {path}: the protocol lies in a clone of the repository; run this there")
    study = read_sweep(path)
    base = study.base | ({"data": data} if data else {})
    return study.model_copy(update={"methods": methods, "ranks": None, "output": output, "base": base})


def entry(runs: pandas.DataFrame, label: str, by: str) -> Entry:
    """A contender's entry from the table of ``sweep.results.gather``. Raises BadInput where it has no final run."""
    own = runs[runs["label"] == label].sort_values(["kind", "task", "seed", "learning_rate"])
    if not (own["kind"] == "final").any():
        raise BadInput(f"there is no final run of {label}; the labels are {', '.join(sorted(set(runs['label'])))}")
    found = [Run(**{name: row[name] for name in Run.model_fields}) for row in own.to_dict("records")]
    first = own.iloc[0]
    means = _means(found)
    about = {name: first[name] for name in ("category", "trainable", "total")}
    return Entry(method=label, by=by, means=means, mean=fmean(means.values()), runs=found, **about)


def _means(runs: Iterable[Run]) -> dict[str, float]:
    final = [run for run in runs if run.kind == "final"]
    return {task: fmean(r.score for r in final if r.task == task) for task in sorted({r.task for r in final})}


def check(found: Entry, study: SweepRecipe) -> None:
    """Raises BadInput where an entry is not of the protocol, or says what does not follow from its runs."""
    tasks = sorted(str(fields["task"]) for fields in study.task_fields)
    tuning = study.tuning.seeds if study.tuning else []
    if sorted({run.task for run in found.runs}) != tasks:
        raise BadInput(f"{found.method}: the protocol's tasks are {', '.join(tasks)}")
    for task in tasks:
        tried, final = found.of("tuning", task), found.of("final", task)
        if sorted(run.seed for run in final) != sorted(study.seeds) or {run.seed for run in tried} != set(tuning):
            raise BadInput(
                f"{found.method} on {task}: final seeds are {study.seeds}, those of tuning {tuning}, once each"
            )
        rates = [run.learning_rate for run in tried]
        if len(rates) != 3 or len(set(rates)) != 3:
            raise BadInput(f"{found.method} on {task}: three learning rates are tried, these are {rates}")
        best = min(tried, key=lambda run: (-run.score, run.learning_rate)).learning_rate
        if any(not math.isclose(run.learning_rate, best) for run in final):
            raise BadInput(f"{found.method} on {task}: tuning chose {best:g}, the final runs took another rate")
    means = _means(found.runs)
    if means.keys() != found.means.keys() or any(abs(means[t] - found.means[t]) > 1e-9 for t in means):
        raise BadInput(f"{found.method}: its means do not follow from its runs: {means}")
    if abs(fmean(means.values()) - found.mean) > 1e-9:
        raise BadInput(f"{found.method}: the mean over tasks is {fmean(means.values())}, it says {found.mean}")


def written(found: Entry) -> str:
    return json.dumps(found.model_dump(), indent=1) + "\n"


def file_name(label: str) -> str:
    """``lora-r-8.json`` for ``lora(r=8)``."""
    return "-".join("".join(c if c.isalnum() or c == "_" else " " for c in label).split()) + ".json"


def read(folder: Path = FOLDER) -> list[Entry]:
    """All entries, the best first. Raises BadInput for a file that is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Entry.model_validate_json(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise BadInput(told(error, str(path))) from error
    return sorted(found, key=lambda e: (-e.mean, e.method))


def board(entries: list[Entry]) -> str:
    """The entries as a table: scores in %, mean ± standard deviation over seeds."""
    full = next((e.mean for e in entries if e.method == FULL), None)
    tasks = sorted(entries[0].means) if entries else []
    rows = [
        (
            f"{place}",
            f"`{e.method}`",
            f"{e.trainable:,}",
            f"{1000 * e.trainable / e.total:.2f}",
            *(f"{100 * e.means[task]:.1f} ± {100 * stdev(e.scores(task)):.1f}" for task in tasks),
            f"{100 * e.mean:.1f}",
            "" if full is None else f"{100 * e.mean / full:.1f}",
            e.by,
        )
        for place, e in enumerate(entries, 1)
    ]
    return table(("", "method", "trained", "per mille", *tasks, "mean", "% of full", "by"), rows)
