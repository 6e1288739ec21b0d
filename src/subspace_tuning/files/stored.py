"""Rows of tables too large to be held: written to the disk a part at a time, mapped, and read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from datasets import Dataset, Features

MANY = 50_000  # rows; of fewer, lists are faster and small enough
CHUNK = 5_000  # rows at a time
Part = dict[str, list[Any]]  # columns of some rows


class Stored(Sequence[dict[str, Any]]):
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

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for first in range(0, len(self), CHUNK):
            yield from self[first : first + CHUNK]


class Column(Sequence[Any]):
    """The values of one column of stored rows."""

    def __init__(self, rows: Dataset, name: str):
        self._rows, self._name = rows.select_columns(name), name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        return self._rows[at if isinstance(at, slice) else int(at)][self._name]

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self), CHUNK):
            yield from self[first : first + CHUNK]

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


def columns_of_texts(names: Sequence[str], rows: Iterable[Sequence[str | None]]) -> dict[str, Sequence[str | None]]:
    """The columns of rows of texts: in lists, or stored where the rows are many."""
    rows = iter(rows)
    first = list(islice(rows, MANY))
    if len(first) < MANY:
        return {name: [row[i] for row in first] for i, name in enumerate(names)}
    from datasets import Features, Value

    parts = chain([first], iter(lambda: list(islice(rows, CHUNK)), []))
    columns = ({name: [row[i] for row in part] for i, name in enumerate(names)} for part in parts)
    found = stored(columns, Features(dict.fromkeys(names, Value("string")))).rows
    return {name: Column(found, name) for name in names}
