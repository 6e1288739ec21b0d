"""Rows of tables too large to be held: written to the disk a part at a time, mapped, and read as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from datasets import Dataset, Features

T = TypeVar("T")

MANY = 50_000  # rows; of fewer, lists are faster and small enough
CHUNK = 5_000  # rows at a time
Part = Mapping[str, list[Any]]  # columns of some rows
Columns = Mapping[str, Sequence[Any]]


class InParts(Sequence[T]):
    """What is best read a part at a time."""

    def __iter__(self) -> Iterator[T]:
        for first in range(0, len(self), CHUNK):
            yield from self[first : first + CHUNK]


class Stored(InParts[dict[str, Any]]):
    """Rows of a file of Arrow's, by datasets. In lists they would be some fifty bytes more for each number and text."""

    def __init__(self, rows: Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if not isinstance(at, slice):
            return self.rows[int(at)]
        columns = self.rows[at]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Column(InParts[Any]):
    """The values of one column of stored rows."""

    def __init__(self, rows: Dataset, name: str):
        self._rows, self._name = rows.select_columns(name), name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        return self._rows[at if isinstance(at, slice) else int(at)][self._name]

    def at(self, numbers: Sequence[int]) -> list[Any]:
        return self._rows[list(numbers)][self._name]


def stored(parts: Iterable[Part], features: Features | None = None) -> Stored:
    """The file is in the folder for temporary ones ($TMPDIR), and gone when the process ends."""
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    with TemporaryDirectory(prefix="subspace-rows-", ignore_cleanup_errors=True) as folder:
        path = str(Path(folder, "rows.arrow"))
        with ArrowWriter(path=path, features=features) as writer:
            for part in parts:
                writer.write_batch(part)
            writer.finalize()
        return Stored(Dataset.from_file(path))  # what is mapped stays when its name goes


def columns_of(read: Callable[[], Iterable[Mapping[str, Any]]], names: Sequence[str] = ()) -> Columns:
    """The columns of rows, None where a row has no value: in lists, or stored where rows are many and all are texts.

    read: begins to read the rows, a second time where they are not as the first ones; names: of columns that are there
    whatever the rows have.
    """
    rows = iter(read())
    first = list(islice(rows, MANY))
    if len(first) < MANY:
        return _in_lists(first, names)
    try:
        return _on_disk(first, rows, names)
    except _Uneven:
        return _in_lists(list(read()), names)


class _Uneven(Exception):
    """A column that held texts alone holds something else further on, or there is another one."""


def _in_lists(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain(names, *rows))}


def _on_disk(first: Sequence[Mapping[str, Any]], rows: Iterator[Mapping[str, Any]], names: Sequence[str]) -> Columns:
    from datasets import Features, Value

    columns: dict[str, Any] = {**_in_lists(first, names)}
    texts = {name: columns[name] for name in columns if _are_texts(columns[name])}
    if not texts:
        raise _Uneven

    def parts() -> Iterator[Part]:
        yield texts
        while part := list(islice(rows, CHUNK)):
            found = _in_lists(part, list(columns))
            if found.keys() != columns.keys() or not all(_are_texts(found[name]) for name in texts):
                raise _Uneven
            for name in columns.keys() - texts.keys():
                columns[name] += found[name]
            yield {name: found[name] for name in texts}

    kept = stored(parts(), Features(dict.fromkeys(texts, Value("string")))).rows
    return columns | {name: Column(kept, name) for name in texts}


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str | None) for value in values)
