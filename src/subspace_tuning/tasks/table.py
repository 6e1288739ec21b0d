"""Reads a file of rows (parquet, csv, tsv, jsonl, json) and takes texts and labels out of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.tasks.task import Task

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")


class Split(NamedTuple):
    """Rows of a task: each one or two texts, and its label as a class number or a real number."""

    texts: list[tuple[str, ...]]
    labels: list[Any]

    def take(self, rows: list[int]) -> Split:
        return Split([self.texts[i] for i in rows], [self.labels[i] for i in rows])


def read_table(path: Path) -> dict[str, list[Any]]:
    """Column name -> values."""
    import pandas

    readers = {
        ".parquet": pandas.read_parquet,
        ".csv": lambda p: pandas.read_csv(p, keep_default_na=False, na_values=[""]),
        ".tsv": lambda p: pandas.read_csv(p, sep="\t", keep_default_na=False, na_values=[""]),
        ".jsonl": lambda p: pandas.read_json(p, lines=True, dtype=False),
        ".json": lambda p: pandas.read_json(p, dtype=False),
    }
    if path.suffix not in readers:
        raise BadInput(f"cannot read {path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BadInput(f"there is no data file {path}")
    if path.stat().st_size == 0:
        raise BadInput(f"the data file {path} is empty: it has no rows and no columns")
    try:
        frame = readers[path.suffix](path)
    except Exception as error:  # each format's parser has its own kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(f"cannot read the data file {path} as {path.suffix[1:]}: {said[0]}") from error
    return {str(name): frame[name].tolist() for name in frame.columns}


def rows_of(task: Task, table: dict[str, list[Any]], where: str) -> Split:
    """The texts and checked labels of a table; ``where`` says in errors which table it is."""
    for column in (*task.columns, task.label):
        if column not in table:
            raise BadInput(
                f"{where} has no column {column!r}: {nearest(column, table)}"
                f"its columns are {', '.join(table) or 'none'}"
            )
    texts = [tuple(row) for row in zip(*(table[column] for column in task.columns), strict=True)]
    for number, row in enumerate(texts):
        for column, text in zip(task.columns, row, strict=True):
            if not isinstance(text, str):
                raise BadInput(f"{where}, row {number}: column {column!r} holds {text!r}, expected a text")
    labels = [_label(task, value, f"{where}, row {number}") for number, value in enumerate(table[task.label])]
    if not texts:
        raise BadInput(f"{where} is empty: expected at least one row")
    return Split(texts, labels)


def _label(task: Task, value: Any, where: str) -> int | float:
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if task.is_regression:
        if not math.isfinite(number):
            raise BadInput(f"{where}: the label is {value!r}, expected a number")
        return number
    if number not in range(task.num_labels):
        named = ", ".join(f"{i} or {name!r}" for i, name in enumerate(task.labels))
        raise BadInput(f"{where}: the label {value!r} is outside the range; expected {named}")
    return int(number)
