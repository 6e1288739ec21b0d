"""What a text task is: its columns, labels and metric; the tasks known by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.tasks.labels import checked_names
from subspace_tuning.tasks.metrics import CLASSIFICATION, REGRESSION


@dataclass(frozen=True)
class Task:
    """One or two columns of text and a label; without label names it is a regression."""

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...] = ()
    metric: str = "accuracy"
    label: str = "label"
    validation: tuple[str, ...] = ("validation",)  # names of the split to judge by, the first one found

    def __post_init__(self) -> None:
        if len(self.columns) not in (1, 2) or len({*self.columns, self.label}) <= len(self.columns):
            raise BadInput(
                f"a task has one or two columns of text and another one of labels, got columns={list(self.columns)} "
                f"and label={self.label!r}"
            )
        known = CLASSIFICATION if self.labels else REGRESSION
        if self.metric not in known:
            kind = "classification" if self.labels else "regression"
            raise BadInput(
                f"unknown metric {self.metric!r} for a {kind}: {nearest(self.metric, known)}"
                f"known are {', '.join(known)}"
            )
        if self.labels:
            checked_names(self.labels)

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def num_labels(self) -> int:
        return len(self.labels) or 1

    def predict(self, logits: NDArray) -> NDArray:
        """Class numbers, or the numbers themselves, from logits (rows, num_labels)."""
        return logits.reshape(len(logits)) if self.is_regression else np.argmax(logits, axis=-1)

    def score(self, logits: NDArray, labels: NDArray) -> float:
        predicted = self.predict(logits)
        if self.is_regression:
            return REGRESSION[self.metric](predicted, labels)
        return CLASSIFICATION[self.metric](predicted, labels, self.num_labels)


_ENTAILS = ("entailment", "not_entailment")
_SAME = ("not_equivalent", "equivalent")
_PAIR = ("sentence1", "sentence2")
GLUE = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews_correlation"),
        Task("sst2", ("sentence",), ("negative", "positive")),
        Task("mrpc", _PAIR, _SAME),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate")),
        Task("stsb", _PAIR, metric="pearson"),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            validation=("validation_matched", "validation"),
        ),
        Task("qnli", ("question", "sentence"), _ENTAILS),
        Task("rte", _PAIR, _ENTAILS),
    )
}
MOVIE_REVIEWS = Task("movie_reviews", ("text",), ("negative", "positive"))
TASKS = {**GLUE, MOVIE_REVIEWS.name: MOVIE_REVIEWS}
OWN = ("classification", "regression")  # tasks whose columns and labels the recipe names


def task_of(
    name: str,
    columns: list[str] | None = None,
    label: str | None = None,
    labels: list[str] | None = None,
    metric: str | None = None,
) -> Task:
    """The task known by a name, or one of the recipe's own columns."""
    if name in TASKS:
        given = {"columns": columns, "label": label, "labels": labels}
        fixed = [key for key, value in given.items() if value is not None]
        if fixed:
            raise BadInput(
                f"the task {name!r} has its own {' and '.join(fixed)}; leave them out, or take task: classification"
            )
        known = TASKS[name]
        return known if metric is None else Task(**{**vars(known), "metric": metric})
    if name == "classification":
        if not labels:
            raise BadInput(f"task: classification needs labels: [...], two names or more, got {labels}")
        return Task(
            name,
            ("text",) if columns is None else tuple(columns),
            tuple(labels),
            metric or "accuracy",
            label or "label",
        )
    if name == "regression":
        if labels:
            raise BadInput(f"task: regression has numbers as labels, got the names {labels}; leave labels out")
        return Task(name, ("text",) if columns is None else tuple(columns), (), metric or "pearson", label or "label")
    known_names = (*TASKS, *OWN)
    raise BadInput(f"unknown task {name!r}: {nearest(name, known_names)}known are {', '.join(known_names)}")
