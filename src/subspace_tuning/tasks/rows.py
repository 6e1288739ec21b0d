"""Takes texts and labels out of a table."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from subspace_tuning.errors import BadInput
from subspace_tuning.tasks.labels import classes
from subspace_tuning.tasks.table import Table
from subspace_tuning.tasks.task import Task


class Split(NamedTuple):
    """Rows of a task: each one or two texts, and its label as a class number or a real number."""

    texts: list[tuple[str, ...]]
    labels: list[Any]

    def take(self, rows: list[int]) -> Split:
        return Split([self.texts[i] for i in rows], [self.labels[i] for i in rows])


def rows_of(task: Task, table: Table) -> Split:
    """The texts and checked labels of a table."""
    columns = [texts(table, column) for column in task.columns]
    labels = numbers(table, task.label) if task.is_regression else classes(table, task.label, task.labels)
    if not len(table):
        raise BadInput(f"{table.name} is empty: expected at least one row")
    return Split(list(zip(*columns, strict=True)), labels)


def texts(table: Table, column: str) -> list[str]:
    """A column of texts. Raises BadInput where a value is something else."""
    values = table.column(column)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise BadInput(
                f"{table.place(row)}: column {column!r} holds {value!r}, expected a text; write it as one (in JSON in "
                "quotation marks, in parquet in a column of strings)"
            )
    return values


def numbers(table: Table, column: str) -> list[float]:
    """A column of numbers, as such or as texts. Raises BadInput where a value is none, or is not finite."""
    found = []
    for row, value in enumerate(table.column(column)):
        number = _number(value)
        if not math.isfinite(number):
            raise BadInput(f"{table.place(row)}: the label is {value!r}, expected a number")
        found.append(number)
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
