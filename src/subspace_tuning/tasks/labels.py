"""Labels: which class or number a value in a file stands for, and the names of classes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from subspace_tuning.errors import BadInput, nearest, shown
from subspace_tuning.files.table import Table

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)  # 007, -1, 2.0
LARGEST = 1e15  # of a label that is a number
_CLASS_NUMBER = re.compile(r"(0|[1-9]\d{0,8})(\.0*)?", re.ASCII)


def checked_names(names: Sequence[Any]) -> tuple[str, ...]:
    """The names of two or more classes. Raises BadInput for names that are no texts, empty or not distinct."""
    if isinstance(names, str) or len(names) < 2:
        raise BadInput(f"labels are the names of the classes, two names or more, got {names!r}")
    for name in names:
        if not isinstance(name, str) or not name:
            raise BadInput(f"labels are the names of the classes, texts that are not empty, got {name!r}")
        if list(names).count(name) > 1:
            raise BadInput(f"labels: {name!r} stands there twice; give each class a name of its own")
    return tuple(names)


def named(names: Sequence[str]) -> dict[str, Any]:
    """What a model's config says of the names of its head's outputs."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }


def classes(table: Table, column: str, names: tuple[str, ...]) -> list[int]:
    """The class number of each row, 0 for the first name.

    A value is the name of its class: a text as it stands there, 3 the name '3', true the name 'true', 'True' or 'TRUE'.
    Where no name is a number, 0, 1, ... count the names instead. Raises BadInput for a value that is neither, and where
    some rows have names and others numbers.
    """
    number_of = {name: i for i, name in enumerate(names)}
    are_counted = not any(_NUMBER.fullmatch(name) for name in names)
    by_name: dict[bool, int] = {}  # whether a row has a name -> the first such row
    found = []
    for row, value in enumerate(table.column(column)):
        named = [name for name in _written(value) if name in number_of]
        if len(named) > 1:
            raise BadInput(f"{table.place(row)}: the label {value!r} could be {' or '.join(map(repr, named))}")
        number = number_of[named[0]] if named else _count(value) if are_counted else None
        if number is None or number >= len(names):
            raise BadInput(f"{table.place(row)}: {_expected(value, names, are_counted)}")
        by_name.setdefault(bool(named), row)
        found.append(number)
    if len(by_name) == 2:
        name, count = by_name[True], by_name[False]
        raise BadInput(
            f"{table.name} mixes names and numbers of classes: {table.columns[column][name]!r} in {table.unit} "
            f"{table.lines[name]}, {table.columns[column][count]!r} in {table.unit} {table.lines[count]}; use one"
        )
    return found


def label_sets(table: Table, column: str, names: tuple[str, ...]) -> list[tuple[float, ...]]:
    """For each row, one number a name: 1.0 where the row has that label, else 0.0.

    The column holds lists of names, or texts of names parted by |, nothing where a row has none; as in ``classes``,
    numbers can count the names. Without that column, each name is a column of 0 and 1, or of true and false.
    """
    if column not in table.columns and set(names) <= set(table.columns):
        return list(zip(*(_flags(table, name) for name in names), strict=True))
    if column in table.columns and len(table) and not any(table.columns[column]):
        raise BadInput(f"{table.name}: column {column!r} has no label in any row; expected lists, or texts parted by |")
    held = [_parts(value, table.place(row)) for row, value in enumerate(_values(table, column))]
    lines = [table.lines[row] for row, labels in enumerate(held) for _ in labels]
    flat = Table(table.name, {column: [label for labels in held for label in labels]}, lines, table.unit)
    found = iter(classes(flat, column, names))
    sets = [{next(found) for _ in labels} for labels in held]
    return [tuple(float(i in chosen) for i in range(len(names))) for chosen in sets]


def _values(table: Table, column: str) -> Sequence[Any]:
    return table.columns[column] if column in table.columns else table.column(column)  # which says what is missing


def _parts(value: Any, place: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split("|")]
    if isinstance(value, list):
        return value
    raise BadInput(f"{place}: the labels are {shown(value)}, expected a list of names, or a text of names parted by |")


def _flags(table: Table, name: str) -> list[float]:
    found = []
    for row, value in enumerate(table.column(name)):
        flag = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "0.0": 0.0, "1.0": 1.0}.get(str(value).lower())
        if flag is None:
            raise BadInput(
                f"{table.place(row)}: column {name!r} holds {shown(value)}, expected 0 or 1, or true or false"
            )
        found.append(flag)
    return found


def numbers(table: Table, column: str) -> list[float]:
    """A column of numbers, as such or as texts. Raises BadInput where a value is none, or is not finite.

    A loss squares them in single precision, which ends at 3.4e38.
    """
    found = []
    for row, value in enumerate(table.column(column)):
        number = _number(value)
        if not math.isfinite(number):
            raise BadInput(f"{table.place(row)}: the label is {shown(value)}, expected a number")
        if abs(number) > LARGEST:
            raise BadInput(
                f"{table.place(row)}: the label is {value!r}, expected a number from {-LARGEST:g} to {LARGEST:g}; "
                "give it in a larger unit"
            )
        found.append(number)
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    if isinstance(value, str) and "_" in value:
        return math.nan  # 1_5 is 15 in Python alone
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _written(value: Any) -> tuple[str, ...]:
    """The ways in which a value is written as a text."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bool):
        return (str(value), str(value).lower(), str(value).upper())
    if isinstance(value, int):
        return (str(value),)
    if isinstance(value, float):
        return (repr(value), str(int(value))) if value.is_integer() else (repr(value),)
    return ()


def _count(value: Any) -> int | None:
    """A whole number from 0, also as a text or with .0 behind it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    return int(text.partition(".")[0]) if _CLASS_NUMBER.fullmatch(text) else None


def _expected(value: Any, names: tuple[str, ...], are_counted: bool) -> str:
    if isinstance(value, bool):
        return f"the label is {str(value).lower()}, which is the name of no class; give labels: ['false', 'true']"
    listed = ", ".join(f"{i} or {name!r}" if are_counted else repr(name) for i, name in enumerate(names))
    hint = nearest(value, names) if isinstance(value, str) else ""
    return f"the label {shown(value)} is outside the range; {hint}expected {listed}"
