"""Inputs of many rows, on the disk: made a part at a time, mapped into memory and read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

from subspace_tuning.tasks.task import Inputs, Row

MANY = 50_000  # rows; of fewer, lists are faster and small enough
CHUNK = 5_000  # rows at a time


class Mapped(Sequence[Inputs]):
    """Rows of a file of Arrow's, by datasets. Rows of a list would be some fifty bytes a number."""

    def __init__(self, rows: Any):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Inputs: ...
    @overload
    def __getitem__(self, at: slice) -> list[Inputs]: ...
    def __getitem__(self, at: int | slice) -> Inputs | list[Inputs]:
        return self._part(self._rows[at]) if isinstance(at, slice) else self._rows[int(at)]

    def __iter__(self) -> Iterator[Inputs]:
        for first in range(0, len(self), CHUNK):
            yield from self[first : first + CHUNK]

    @staticmethod
    def _part(columns: dict[str, list[Any]]) -> list[Inputs]:
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def mapped(rows: Sequence[Row], encode: Callable[[Sequence[Row]], list[Inputs]]) -> Sequence[Inputs]:
    """``encode(rows)``, of which each row's inputs are its own; on the disk where the rows are many.

    The file is in the folder for temporary ones ($TMPDIR), and gone when the process ends.
    """
    if len(rows) < MANY:
        return encode(rows)
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    with TemporaryDirectory(prefix="subspace-rows-", ignore_cleanup_errors=True) as folder:
        path = str(Path(folder, "rows.arrow"))
        with ArrowWriter(path=path) as writer:
            for first in range(0, len(rows), CHUNK):
                inputs = encode(rows[first : first + CHUNK])
                writer.write_batch({key: [row[key] for row in inputs] for key in inputs[0]})
            writer.finalize()
        return Mapped(Dataset.from_file(path))  # what is mapped stays when its name goes
