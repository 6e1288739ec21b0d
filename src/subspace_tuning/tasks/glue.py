"""The eight tasks of GLUE that the paper trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from subspace_tuning.errors import BadInput
from subspace_tuning.files import stored
from subspace_tuning.files.table import table_of
from subspace_tuning.tasks.classification import Classification
from subspace_tuning.tasks.registry import know
from subspace_tuning.tasks.regression import Regression
from subspace_tuning.tasks.task import Row, Task

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "nyu-mll/glue"


def from_hub(task: Task) -> tuple[Sequence[Row], Sequence[Row]]:
    import datasets

    try:
        glue = datasets.load_dataset(HUB, task.name)
    except Exception as error:  # the hub's client has dozens of kinds
        raise BadInput(
            f"cannot load {task.name} from {HUB} on the hub ({type(error).__name__}); go online, or name with "
            f"data=FOLDER a local folder that holds train.parquet and {task.validation[0]}.parquet in {task.name}/"
        ) from error
    parts = ((f"{HUB}/{task.name}/{part}", glue[part]) for part in ("train", task.validation[0]))
    train, validation = (task.rows(table_of(name, _columns(part))) for name, part in parts)
    return train, validation


def _columns(part: Dataset) -> dict[str, Sequence[Any]]:
    are_many = len(part) >= stored.MANY  # and stay on the disk
    return {name: stored.Column(part, name) if are_many else list(part[name]) for name in part.column_names}


def _pair(name: str, labels: tuple[str, ...], columns: tuple[str, ...] = ("sentence1", "sentence2")) -> Classification:
    return Classification(name=name, columns=columns, labels=labels, fetch=from_hub)


_ENTAILS = ("entailment", "not_entailment")
_OPINION, _GRAMMAR = ("negative", "positive"), ("unacceptable", "acceptable")
_COLA = Classification(
    columns=("sentence",), labels=_GRAMMAR, metric="matthews_correlation", name="cola", fetch=from_hub
)
_NLI = ("entailment", "neutral", "contradiction")
GLUE: dict[str, Task] = {
    task.name: know(task)
    for task in (
        _COLA,
        Classification(columns=("sentence",), labels=_OPINION, name="sst2", fetch=from_hub),
        _pair("mrpc", ("not_equivalent", "equivalent")),
        _pair("qqp", ("not_duplicate", "duplicate"), ("question1", "question2")),
        Regression(columns=("sentence1", "sentence2"), name="stsb", fetch=from_hub),
        replace(_pair("mnli", _NLI, ("premise", "hypothesis")), validation=("validation_matched", "validation")),
        _pair("qnli", _ENTAILS, ("question", "sentence")),
        _pair("rte", _ENTAILS),
    )
}
