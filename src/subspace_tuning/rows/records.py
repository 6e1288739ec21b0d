"""Records, mappings from column to value: from jsonl, json, parquet, csv or tsv, or from a data set of the hub."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspace_tuning.errors import BadInput
from subspace_tuning.files import assets
from subspace_tuning.files.text import lines_of, read_text
from subspace_tuning.rows.kept import digest

Record = dict[str, Any]
JUDGED = ("test", "validation", "dev", "val")  # splits to judge by, the first one found
SHUFFLE = 20240707  # a sample is the same one for every seed
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Records:
    """Records and where they come from; a record's number is its place there, whichever sample it stands in."""

    name: str
    rows: list[Record]
    numbers: list[int]

    @staticmethod
    def of(rows: Sequence[Record], name: str = "the rows") -> Records:
        """Raises BadInput where there is none."""
        if not rows:
            raise BadInput(f"{name} is empty: expected at least one row")
        return Records(name, list(rows), list(range(len(rows))))

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, at: int) -> str:
        return f"{self.name}, row {self.numbers[at]}"

    def digest(self) -> str:
        """A hash of the rows and of their order."""
        return digest(self.rows)[:16]


def read(source: str | Path, splits: str | Sequence[str] = JUDGED, subset: str | None = None) -> Records:
    """The records of a file, of a folder (of its first split that is there), of a data set of the hub, or carried ones.

    subset: the configuration of a hub's data set (``ARC-Easy``). Raises BadInput for what is not there or broken.
    """
    splits = (splits,) if isinstance(splits, str) else tuple(splits)
    path = Path(source).expanduser()
    if str(source) in CARRIED and not path.exists():
        return Records.of(CARRIED[str(source)](), str(source))
    if path.is_file():
        return Records.of(_read_file(path), str(path))
    if path.is_dir():
        files = (path / f"{split}{suffix}" for split in splits for suffix in READERS)
        found = next(filter(Path.is_file, files), None)
        if found is None:
            raise BadInput(f"{path} has no file {'|'.join(splits)} that ends in {', '.join(READERS)}")
        return Records.of(_read_file(found), str(found))
    if _ON_HUB.fullmatch(str(source)):
        return _from_hub(str(source), splits, subset)
    raise BadInput(f"there is no data file or folder {source}, and it is no name on the hub such as allenai/ai2_arc")


CARRIED: dict[str, Callable[[], list[Record]]] = {  # texts that ordinary packages carry
    "editorials": lambda: [{"text": text} for text in assets.editorials()],
    "conversations": lambda: [{"question": asked, "answer": said} for asked, said in assets.conversations()],
}


def sampled(records: Records, size: int | None) -> Records:
    """At most so many records, drawn by a fixed shuffle: the same ones for every model and seed."""
    if size is None or size >= len(records):
        return records
    order = list(range(len(records)))
    random.Random(SHUFFLE).shuffle(order)
    chosen = order[:size]
    return Records(records.name, [records.rows[i] for i in chosen], [records.numbers[i] for i in chosen])


def _read_file(path: Path) -> list[Record]:
    if path.suffix not in READERS:
        raise BadInput(f"cannot read {path}: expected a file that ends in {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise BadInput(f"the data file {path} is empty: it has no rows and no columns")
    try:
        return READERS[path.suffix](path)
    except BadInput:
        raise
    except Exception as error:  # each format's parser has its own kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(f"cannot read the data file {path} as {path.suffix[1:]}: {said[0]}") from error


def _json_lines(path: Path) -> list[Record]:
    rows = []
    for number, line in enumerate(lines_of(read_text(path)), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number} is not JSON: {error}") from error
        rows.append(_record(row, f"{path}, line {number}"))
    return rows


def _json(path: Path) -> list[Record]:
    data = json.loads(read_text(path))
    if isinstance(data, dict) and data and all(isinstance(column, list) for column in data.values()):
        if len({len(column) for column in data.values()}) > 1:
            raise BadInput(f"{path} has columns of different lengths: {', '.join(data)}")
        data = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    if not isinstance(data, list):
        raise BadInput(f"{path} holds {type(data).__name__}, expected a list of objects, one a row")
    return [_record(row, f"{path}, row {number}") for number, row in enumerate(data)]


def _record(row: Any, place: str) -> Record:
    if not isinstance(row, dict):
        raise BadInput(f"{place} holds {type(row).__name__}, expected an object with named columns")
    return row


def _parquet(path: Path) -> list[Record]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def _separated(delimiter: str) -> Callable[[Path], list[Record]]:
    def rows(path: Path) -> list[Record]:
        text = read_text(path)
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # texts may be longer than 128 KB
        names, *rest = filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        if len(set(names)) < len(names):
            raise BadInput(f"{path} has two columns of one name: {', '.join(names)}")
        for number, fields in enumerate(rest):
            if len(fields) != len(names):
                raise BadInput(f"{path}, row {number} has {len(fields)} fields, expected {', '.join(names)}")
        return [dict(zip(names, fields, strict=True)) for fields in rest]

    return rows


READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
}


def _from_hub(name: str, splits: Sequence[str], subset: str | None) -> Records:
    import datasets

    try:
        there = datasets.get_dataset_split_names(name, subset)
        split = next((split for split in splits if split in there), None)
        rows = None if split is None else datasets.load_dataset(name, subset, split=split).to_list()
    except Exception as error:  # the hub's client has dozens of kinds
        raise BadInput(
            f"there is no data file or folder {name}, and it cannot be loaded from the hub ({type(error).__name__}); "
            "go online, or name a local file or folder"
        ) from error
    if rows is None:
        raise BadInput(f"{name} has no split {' or '.join(splits)}: its splits are {', '.join(there)}")
    return Records.of(rows, f"{name}/{split}")
