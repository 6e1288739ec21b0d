"""What would be read of data: columns, labels, lengths in tokens, how many are cut, what stands there twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from subspace_tuning.files.table import Table, is_missing
from subspace_tuning.tasks.load import Data
from subspace_tuning.tasks.task import Row, Task

WHOLE = 1 << 30  # tokens of a row: more than any has
CHUNK = 1000  # rows that are encoded at a time
FEW = 12  # values of a column that are counted one by one


@dataclass(frozen=True)
class Column:
    """holds: kinds of values. values: how often each occurs, where they are few. blank: texts without a word."""

    name: str
    holds: list[str]
    missing: int
    blank: int
    values: dict[str, int] | None
    example: str


@dataclass(frozen=True)
class Tokens:
    """Of the whole rows: least, median, 95th percentile, most; ``longer`` than ``limit`` are cut, or read in pieces."""

    least: int
    median: int
    most_of_95: int
    most: int
    limit: int
    longer: int


@dataclass(frozen=True)
class Part:
    """Rows for training, or to judge by. inputs: sequences that they make, where these are counted in tokens.

    labels: how often each name occurs, or least, median and greatest of numbers. special: rows with a special token of
    the tokenizer in their texts. twice: rows whose texts stood in an earlier row; with_other_label: of these, those
    that are labelled otherwise.
    """

    rows: int
    inputs: int
    labels: dict[str, float]
    tokens: Tokens | None
    special: int
    twice: int
    with_other_label: int


@dataclass(frozen=True)
class Overview:
    """in_training: rows to judge by whose texts are trained on."""

    train: Part
    validation: Part
    in_training: int

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


def columns_of(table: Table) -> list[Column]:
    return [_column(name, values) for name, values in table.columns.items()]


def overview(task: Task, data: Data, processor: Any, max_length: int | None, model: Any = None) -> Overview:
    """What ``task`` makes of its rows, as many tokens of each as a run with this ``max_length`` would.

    model: with or without its numbers, where rows that it cannot read are to be refused.
    """
    train, validation = (_part(task, rows, processor, max_length, model) for rows in data)
    asked = {_asked(row) for row in data.train}
    return Overview(train, validation, sum(_asked(row) in asked for row in data.validation))


def _column(name: str, values: Sequence[Any]) -> Column:
    there = [value for value in values if not is_missing(value)]
    told = Counter(map(str, there)) if all(isinstance(v, str | int | float) for v in there) else Counter()
    return Column(
        name,
        sorted({_kind(value) for value in there}),
        missing=len(values) - len(there),
        blank=sum(isinstance(value, str) and not value.strip() for value in there),
        values=dict(told.most_common()) if 0 < len(told) <= FEW else None,
        example=_shown(next(iter(there), "")),
    )


def _shown(value: Any) -> str:
    """Its beginning, in one line."""
    return " ".join(str(value).split())[:200]


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array of {' x '.join(map(str, value.shape))}"
    kinds = {bool: "true or false", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return next((told for kind, told in kinds.items() if isinstance(value, kind)), type(value).__name__)


def _part(task: Task, rows: Sequence[Row], processor: Any, max_length: int | None, model: Any) -> Part:
    whole = _lengths(task, rows, processor, WHOLE)
    read = _lengths(task, rows, processor, max_length, model)
    first: dict[Hashable, Row] = {}
    again = [(row, first.setdefault(_asked(row), row)) for row in rows]
    marks = getattr(processor, "all_special_tokens", [])
    return Part(
        len(rows),
        len(read) or len(rows),
        _labels([label for row in rows for label in task.labels_of(row)]),
        _tokens(np.array(whole), max(read)) if read else None,
        special=sum(any(mark in text for text in _texts(row) for mark in marks) for row in rows),
        twice=sum(row is not earlier for row, earlier in again),
        with_other_label=sum(task.labels_of(row) != task.labels_of(earlier) for row, earlier in again),
    )


def _lengths(task: Task, rows: Sequence[Row], processor: Any, max_length: int | None, model: Any = None) -> list[int]:
    """Tokens of each input, of the longer one where it is a pair; nothing of inputs that are no tokens.

    model: what is to read the inputs, where that is to be checked.
    """
    found: list[int] = []
    for first in range(0, len(rows), CHUNK):
        inputs = task.encode(rows[first : first + CHUNK], processor, max_length)
        if model is not None:
            task.check(model, processor, inputs)
        sides = ((row, row.get("second", row)) for row in inputs if "input_ids" in row)
        found += [max(len(side["input_ids"]) for side in pair) for pair in sides]
    return found


def _tokens(whole: np.ndarray, limit: int) -> Tokens:
    least, median, often, most = (int(n) for n in np.quantile(whole, [0, 0.5, 0.95, 1], method="higher"))
    return Tokens(least, median, often, most, limit, int((whole > limit).sum()))


def _labels(found: Sequence[str | float]) -> dict[str, float]:
    names, numbers = ([label for label in found if isinstance(label, str) is named] for named in (True, False))
    if not numbers:
        return dict(Counter(map(str, names)).most_common())
    places = np.quantile(np.array(numbers, dtype=float), [0, 0.5, 1]).tolist()
    return dict(zip(("least", "median", "greatest"), places, strict=True))


def _asked(row: Row) -> Hashable:
    """A row without its label, which kinds keep last; all of a record."""
    if isinstance(row, tuple):
        return tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in row[:-1])
    return json.dumps(row, sort_keys=True, default=str)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, dict):
        yield from _texts([*value.values()])
