"""Files of rows (parquet, csv, tsv, jsonl, json) as tables. What stands in a file is what is read: nothing is inferred.

csv, tsv       every field is a text; an empty one is missing
jsonl, json    texts, numbers, true and false, lists and objects as JSON has them; null is missing
parquet        values of the types that the file declares; null is missing

A row is one record of the file, or the file is refused with the place at fault.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspace_tuning.errors import BadInput, nearest, shown
from subspace_tuning.files.delimited import csv, once, tsv
from subspace_tuning.files.stored import CHUNK, columns_of
from subspace_tuning.files.text import SAY_WHICH, UTF8, lines_in, read_text

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON writes one of two surrogates


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and where each row stands."""

    name: str  # of the file, for errors
    columns: Mapping[str, Sequence[Any]]  # None: missing
    lines: Sequence[int]  # of each row
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        return f"{self.name}, {self.unit} {self.lines[row]}"

    def column(self, name: str) -> Sequence[Any]:
        """The values of a column. Raises BadInput where there is no such column or a value is missing."""
        if not self.columns:
            raise BadInput(f"{self.name} is empty: it has no rows and no columns")
        if name not in self.columns:
            raise BadInput(
                f"{self.name} has no column {name!r}: {nearest(name, self.columns)}"
                f"its columns are {', '.join(self.columns)}{_parted(self.columns)}"
            )
        values = self.columns[name]
        missing = [row for row, value in enumerate(values) if is_missing(value)]
        if missing:
            others = f", and so in {len(missing) - 1} more; leave such rows out, or fill them" if missing[1:] else ""
            raise BadInput(f"{self.place(missing[0])}: column {name!r} has no value{others}")
        return values


def read_table(path: Path, encoding: str = UTF8) -> Table:
    """The rows of a file. Raises BadInput, with the line, for a file that cannot be read as what its name says."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"cannot read {path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BadInput(f"there is no data file {path}")
    if path.stat().st_size == 0:
        raise BadInput(f"the data file {path} is empty: it has no rows and no columns")
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix in (".csv", ".tsv"):
        return Table(str(path), *(csv if path.suffix == ".csv" else tsv)(path, encoding))
    return (_jsonl if path.suffix == ".jsonl" else _json)(path, encoding)


def table_of(name: str, columns: Mapping[str, Sequence[Any]]) -> Table:
    """A table of what is no file of lines, its rows counted from 1."""
    size = len(next(iter(columns.values()), []))
    return Table(name, columns, range(1, size + 1), "row")


def _parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    def rows() -> Iterator[dict[str, Any]]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK):
                columns = [_values(batch, name, path) for name in names]
                yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))

    try:
        with parquet.ParquetFile(path) as file:
            names, size = once(file.schema_arrow.names, str(path)), file.metadata.num_rows
        columns = columns_of(rows, names)
    except (pyarrow.ArrowException, OSError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(f"cannot read the data file {path} as parquet: {said[0]}") from error
    return Table(str(path), columns, range(1, size + 1), "row")


def _values(batch: Any, name: str, path: Path) -> list[Any]:
    try:
        return batch.column(name).to_pylist()
    except (ValueError, OverflowError, KeyError) as error:  # no UTF-8, a day beyond the year 9999, no time zone
        raise BadInput(
            f"cannot read column {name!r} of the data file {path}: {error}; mend it, or leave it out"
        ) from error


def _jsonl(path: Path, encoding: str) -> Table:
    name, lines = str(path), array("q")

    def rows() -> Iterator[dict[str, Any]]:
        del lines[:]
        blank = None
        for number, line in enumerate(lines_in(path, encoding, SAY_WHICH), 1):
            if not line.strip():
                blank = blank or number
                continue
            if blank:  # and not at the end
                parsed("", f"{name}, line {blank}", "jsonl")
            lines.append(number)
            place = f"{name}, line {number}"
            yield _object(parsed(line, place, "jsonl"), place)

    return Table(name, columns_of(rows), lines)


def _json(path: Path, encoding: str) -> Table:
    """A list of objects, or an object of columns (each a list, or an object from row to value as pandas writes it)."""
    name = str(path)
    data = parsed(read_text(path, encoding, SAY_WHICH), name, "json")
    if isinstance(data, list):
        rows = [_object(row, f"{name}, row {number}") for number, row in enumerate(data, 1)]
        return Table(name, columns_of(lambda: rows), range(1, len(rows) + 1), "row")
    if not (isinstance(data, dict) and all(isinstance(values, list | dict) for values in data.values())):
        raise BadInput(f"{name} holds {shown(data)}, expected a list of rows: [{{...}}, {{...}}]")
    numbers = {column: list(v) if isinstance(v, dict) else range(len(v)) for column, v in data.items()}
    first = next(iter(numbers), "")
    for column, keys in numbers.items():
        if list(keys) != list(numbers[first]):
            raise BadInput(f"{name}: the columns {first!r} and {column!r} have different rows")
    return table_of(name, {c: list(v.values()) if isinstance(v, dict) else v for c, v in data.items()})


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BadInput(f"{place} is {shown(row)}, expected an object from columns to values")
    return row


def parsed(text: str, place: str, form: str) -> Any:
    """What JSON says. Raises BadInput where it is none, names a key twice or holds half a character."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        once([key for key, _ in pairs], place)
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=unique)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except BadInput:
        raise
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise BadInput(f"{place} has {half!a}, one half of a character, whose other half does not stand there") from (
            None
        )
    except (ValueError, RecursionError) as error:
        many = "; rows of one object a line are .jsonl" if form == "json" and "Extra data" in str(error) else ""
        raise BadInput(f"cannot read the data file {place} as {form}: {error}{many}") from error


def _parted(names: Collection[str]) -> str:
    """By what a file seems to be parted that was read as one column."""
    found = next((mark for mark in (";", "\t", "|", ",") if len(names) == 1 and mark in next(iter(names))), None)
    return "" if found is None else f"; it seems to be parted by {found!r} (.csv is by ',', .tsv by a tab)"


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # NaN
