"""A run of a language model judged: its target after training, its retention before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.files.aside import write
from subspace_tuning.judge import Judgement, OfRows, Verdict
from subspace_tuning.rows import Records
from subspace_tuning.run import base_verdicts
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.judgements import of_retention, of_target
from subspace_tuning.run.precision import precision
from subspace_tuning.run.pretrained import load_tokenizer
from subspace_tuning.run.recipe import NONE, Recipe
from subspace_tuning.tasks import Data, Task, load, stamp

OPPOSITE = "neg_"  # in front of a metric that is the better the smaller, whose score is taken negative
Verdicts = dict[str, Verdict]


@dataclass(frozen=True)
class Judged:
    """What a run came to: score and metric (the greater the better), and all verdicts."""

    metric: str
    score: float
    target: Verdicts
    before: Verdicts
    after: Verdicts

    def told(self) -> dict[str, Any]:
        """Fields of a result."""
        return {
            "verdicts": {label: _short(verdict) for label, verdict in self.target.items()},
            "retention": {label: _change(self.before[label], verdict) for label, verdict in self.after.items()},
        }

    def write(self, folder: RunFolder) -> None:
        """verdicts.json, with each row's own values."""
        parts = {"target": self.target, "before": self.before, "after": self.after}
        told = {part: {label: verdict.to_data() for label, verdict in of.items()} for part, of in parts.items()}
        write(folder.path / "verdicts.json", json.dumps(told))


class Judges:
    """The judgements of a recipe, with their rows at hand. Raises BadInput for rows that are not there."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.tokenizer = recipe, load_tokenizer(recipe.model)
        self.target = of_target(recipe.evaluate, recipe.hold_out)
        self.retention = of_retention(recipe.retention, recipe.hold_out)
        self._rows = {label: self._read(one) for label, one in (self.target | self.retention).items()}

    def before(self, model: Any) -> Verdicts:
        """What the base is able to, by the judgements of retention."""
        return {label: self._of_base(model, label, judgement) for label, judgement in self.retention.items()}

    def after(self, model: Any, before: Verdicts) -> Judged:
        """The trained model judged; a base that was not trained is what it was."""
        if self.recipe.method == NONE:
            target = {label: self._of_base(model, label, one) for label, one in self.target.items()}
            return self._judged(target, before, before)
        target = {label: self._of(model, label, one) for label, one in self.target.items()}
        return self._judged(
            target, before, {label: self._of(model, label, one) for label, one in self.retention.items()}
        )

    def _judged(self, target: Verdicts, before: Verdicts, after: Verdicts) -> Judged:
        asked = self.recipe.task_object().metric
        searching = self.recipe.hold_out and not any(asked in verdict.metrics for verdict in target.values())
        metric, verdict = score_of(target, "" if searching else asked)
        value = verdict.metrics[metric]
        if verdict.greater_is_better:
            return Judged(metric, value, target, before, after)
        return Judged(OPPOSITE + metric, -value, target, before, after)

    def _of_base(self, model: Any, label: str, judgement: Judgement) -> Verdict:
        how = {"dtype": str(model.dtype), "bf16": self.recipe.in_bf16}
        return base_verdicts.kept(
            self.recipe.model, how, judgement, self._rows[label], lambda: self._of(model, label, judgement)
        )

    def _of(self, model: Any, label: str, judgement: Judgement) -> Verdict:
        with precision(model, self.recipe.in_bf16):
            if isinstance(judgement, OfRows):
                return judgement(model, self.tokenizer, records=self._rows[label])
            return judgement(model, self.tokenizer)

    def _read(self, judgement: Judgement) -> Records | None:
        if not isinstance(judgement, OfRows):
            return None
        return judgement.records(None if judgement.data is not None else own_rows(self.recipe))


def score_of(verdicts: Mapping[str, Verdict], metric: str) -> tuple[str, Verdict]:
    """The metric that is the score, and the verdict that tells it: the first one's main metric unless one is named."""
    first = next(iter(verdicts.values()))
    if not metric:
        return first.metric, first
    found = next((verdict for verdict in verdicts.values() if metric in verdict.metrics), None)
    if found is None:
        told = [name for verdict in verdicts.values() for name in verdict.metrics]
        raise BadInput(f"metric: {metric!r} is told by no judgement: {nearest(metric, told)}{', '.join(told)}")
    return metric, found


def own_rows(recipe: Recipe) -> Records:
    """The rows that the run is judged by, as they stand in its data."""
    task = recipe.task_object()
    keys = ("train_samples", "eval_samples", "hold_out", "encoding")
    how = tuple((key, getattr(recipe, key)) for key in keys)
    return _own_rows(task, recipe.data, stamp(task, recipe.data), how)


@lru_cache(maxsize=4)
def _own_rows(task: Task, data: str | None, version: Any, how: tuple[tuple[str, Any], ...]) -> Records:
    found: Data = load(task, data, **dict(how))
    return Records.of(found.validation, f"the rows that {task.name} is judged by")


def _short(verdict: Verdict) -> dict[str, Any]:
    return {
        "metric": verdict.metric,
        "value": verdict.value,
        "greater_is_better": verdict.greater_is_better,
        "metrics": verdict.metrics,
        "rows": verdict.rows,
        "left_out": verdict.left_out,
        "notes": list(verdict.notes),
    }


def _change(before: Verdict, after: Verdict) -> dict[str, Any]:
    return {
        "metric": after.metric,
        "greater_is_better": after.greater_is_better,
        "before": before.value,
        "after": after.value,
        "difference": after.value - before.value,
        "rows": after.rows,
        "metrics": {"before": before.metrics, "after": after.metrics},
    }
