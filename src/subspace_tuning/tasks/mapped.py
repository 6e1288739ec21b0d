"""Rows and inputs that are many: made when they are asked for, and kept on the disk."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, overload

from subspace_tuning.files import stored
from subspace_tuning.files.stored import Column, InParts
from subspace_tuning.tasks.task import Inputs, Row


class Rows(InParts[Row]):
    """``make(*values)`` of the values of each column, at ``numbers`` and in their order."""

    def __init__(self, make: Callable[..., Row], columns: Sequence[Sequence[Any]], numbers: Sequence[int]):
        self._make, self._columns, self._numbers = make, columns, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if not isinstance(at, slice):
            return self._make(*(column[self._numbers[at]] for column in self._columns))
        numbers = self._numbers[at]
        return [self._make(*row) for row in zip(*(_at(column, numbers) for column in self._columns), strict=True)]

    def at(self, places: Sequence[int]) -> Rows:
        return Rows(self._make, self._columns, array("q", (self._numbers[place] for place in places)))


def _at(column: Sequence[Any], numbers: Sequence[int]) -> Sequence[Any]:
    return column.at(numbers) if isinstance(column, Column) else [column[i] for i in numbers]


def rows_of(make: Callable[..., Row], columns: Sequence[Sequence[Any]]) -> Sequence[Row]:
    """A list, or where a column is stored, rows that are made when they are asked for."""
    if any(isinstance(column, Column) for column in columns):
        return Rows(make, columns, range(len(columns[0])))
    return [make(*row) for row in zip(*columns, strict=True)]


def picked(rows: Sequence[Row], places: Sequence[int]) -> Sequence[Row]:
    return rows.at(places) if isinstance(rows, Rows) else [rows[place] for place in places]


def mapped(rows: Sequence[Row], encode: Callable[[Sequence[Row]], list[Inputs]]) -> Sequence[Inputs]:
    """``encode(rows)``, of which each row's inputs are its own; on the disk where the rows are many."""
    if len(rows) < stored.MANY:
        return encode(rows)

    def columns(inputs: list[Inputs]) -> stored.Part:
        return {key: [row[key] for row in inputs] for key in inputs[0]}

    return stored.stored(columns(encode(rows[i : i + stored.CHUNK])) for i in range(0, len(rows), stored.CHUNK))
