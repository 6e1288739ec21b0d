"""The judgements that a recipe names: which they are, and on which rows each is taken.

A judgement of ``evaluate`` without ``data`` is taken on the run's own rows: those that it is judged by, or in searches
those held out of training. One with data of its own is another set, and so is a judgement of ``retention``: both are
for final runs, not for searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.judge import Judgement, several
from subspace_tuning.judge.judgement import OfRows
from subspace_tuning.tasks import Task
from subspace_tuning.tasks.language import LanguageTask

HELD_OUT = {"judge": "bits_per_byte"}  # of a search whose judgements all have data of their own


def check_judgements(evaluate: Sequence[Any] | None, retention: Sequence[Any], task: Task) -> None:
    """Raises BadInput for judgements that cannot be made, or that do not tell the metric that is asked for."""
    if not isinstance(task, LanguageTask):
        if evaluate or retention:
            raise BadInput(
                f"evaluate and retention judge language models, and task: {task.name} is judged by its "
                f"{task.metric}; leave them out, or take task: sft"
            )
        return
    target, kept = several(list(evaluate or task.judgements)), several(list(retention))
    if both := sorted(set(target) & set(kept)):
        raise BadInput(f"evaluate and retention both have a judgement {both[0]!r}; give one of them a name: ...")
    if kept and not target:
        raise BadInput(
            f"retention needs evaluate: task: {task.name} has no judgement of its own; add one of the target, such as "
            "{judge: bits_per_byte, data: FOLDER}"
        )
    for label, judgement in kept.items():
        if isinstance(judgement, OfRows) and judgement.data is None:
            raise BadInput(f"retention: {label} needs data, rows that the model is not trained on")
    told = [metric for judgement in target.values() for metric in judgement.told]
    known = bool(target) and all(judgement.told for judgement in target.values())
    if task.metric and known and task.metric not in told:
        raise BadInput(
            f"metric: {task.metric!r} is told by no judgement: {nearest(task.metric, told)}{', '.join(told)}"
        )


def of_target(evaluate: Sequence[Mapping[str, Any]] | None, hold_out: bool) -> dict[str, Judgement]:
    """What judges the run, by label; the first gives the score."""
    found = several(list(evaluate or []))
    if not hold_out or not found:
        return found
    own: dict[str, Judgement] = {
        label: one for label, one in found.items() if isinstance(one, OfRows) and one.data is None
    }
    return own or several(HELD_OUT)


def of_retention(retention: Sequence[Mapping[str, Any]], hold_out: bool) -> dict[str, Judgement]:
    return {} if hold_out else several(list(retention))


def unnamed(judgement: Judgement) -> Judgement:
    """The same judgement whatever it is called."""
    return replace(judgement, name="")
