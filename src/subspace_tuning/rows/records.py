"""Records, mappings from column to value: rows of a table's file, or of a data set of the hub."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from subspace_tuning.errors import BadInput
from subspace_tuning.files import assets
from subspace_tuning.files.table import SUFFIXES, Table, read_table
from subspace_tuning.rows.kept import digest

Record = dict[str, Any]
JUDGED = ("test", "validation", "dev", "val")  # splits to judge by, the first one found
SHUFFLE = 20240707  # a sample is the same one for every seed
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Records:
    """Records and where they come from; a record's number is its place there, whichever sample it stands in.

    lines: of all records of a file of lines, by their numbers.
    """

    name: str
    rows: list[Record]
    numbers: list[int]
    lines: Sequence[int] | None = None

    @staticmethod
    def of(rows: Sequence[Record], name: str = "the rows") -> Records:
        """Raises BadInput where there is none."""
        if not rows:
            raise BadInput(f"{name} is empty: expected at least one row")
        return Records(name, list(rows), list(range(len(rows))))

    @staticmethod
    def of_table(table: Table) -> Records:
        """A record leaves out what is missing in its row."""
        names, columns = list(table.columns), table.columns.values()
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        found = Records.of([{k: v for k, v in row.items() if v is not None} for row in rows], table.name)
        return replace(found, lines=table.lines) if table.unit == "line" else found

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, at: int) -> str:
        """As a person counts, from 1."""
        number = self.numbers[at]
        return f"{self.name}, row {number + 1}" if self.lines is None else f"{self.name}, line {self.lines[number]}"

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
        return Records.of_table(read_table(path))
    if path.is_dir():
        files = (path / f"{split}{suffix}" for split in splits for suffix in SUFFIXES)
        found = next(filter(Path.is_file, files), None)
        if found is None:
            raise BadInput(f"{path} has no file {'|'.join(splits)} that ends in {', '.join(SUFFIXES)}")
        return Records.of_table(read_table(found))
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
    return replace(records, rows=[records.rows[i] for i in chosen], numbers=[records.numbers[i] for i in chosen])


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
