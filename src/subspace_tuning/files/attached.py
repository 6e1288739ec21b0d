"""Pictures and sounds as people keep them beside rows: files that a table names or folders hold, bytes, arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table, table_of

ARRAYS = ".npz"


def attached(table: Table, column: str, what: str, check: Callable[[Any], None]) -> list[Any]:
    """A column of files: paths below the table's folder, bytes, or arrays; in the hub's ``{"bytes", "path"}`` too.

    what: ``a picture``, for errors. check: raises BadInput for a file that is none. Raises BadInput, with the row, for
    a value that is none.
    """
    values = table.columns[column] if column in table.columns else table.column(column)  # which says what is missing
    found = [_held(value, table, row, what) for row, value in enumerate(values)]
    for row, held in enumerate(found):
        try:
            check(held)
        except BadInput as error:
            raise BadInput(f"{table.place(row)}: {error}") from error
    return found


def _held(value: Any, table: Table, row: int, what: str) -> Any:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | np.ndarray | Path):
        return value
    if not isinstance(value, str) or not value:
        raise BadInput(f"{table.place(row)}: expected {what}, its bytes or its path, got {named(value)}")
    folder = Path(table.name).parent.resolve()
    if "\0" in value:
        raise BadInput(f"{table.place(row)}: {value!r} is no path: it has a NUL character")
    path = (folder / value).resolve()
    if not path.is_relative_to(folder):
        raise BadInput(f"{table.place(row)}: {value!r} leads out of {folder}; give paths below it")
    if not path.is_file():
        raise BadInput(f"{table.place(row)}: there is no {what.partition(' ')[2]} {path}")
    return path


def by_folder(folder: Path, column: str, label: str, what: str, suffixes: Sequence[str]) -> Table:
    """The files of a folder, each labelled by the folder below it that it is in."""
    found = sorted(p for p in folder.glob("*/**/*") if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise BadInput(f"{folder} has no {what}: expected a folder for each class, with {', '.join(suffixes)} in it")
    return table_of(str(folder), {column: found, label: [p.relative_to(folder).parts[0] for p in found]})


def arrays(path: Path, columns: Sequence[str] | None = None) -> Table:
    """These arrays of a .npz file, or all, a row each entry along their first axis. Nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as held:
            wanted = list(held) if columns is None else columns
            missing = [column for column in wanted if column not in held]
            if missing:
                raise BadInput(f"{path} has no array {missing[0]!r}; it has {', '.join(held) or 'none'}")
            found = {column: held[column] for column in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"cannot read {path} as arrays of numpy: {error}") from error
    single = next((column for column, array in found.items() if not array.ndim), None)
    if single:
        raise BadInput(f"{path}: the array {single!r} is a single value, expected an entry a row")
    sizes = {column: len(array) for column, array in found.items()}
    if len({*sizes.values()}) > 1:
        raise BadInput(f"{path}: the arrays have different lengths: {sizes}")
    return table_of(str(path), {c: [*array] if array.ndim > 1 else array.tolist() for c, array in found.items()})


def is_array(held: Any) -> bool:
    return isinstance(held, np.ndarray)


def named(value: Any) -> str:
    """A value in an error."""
    if isinstance(value, np.ndarray):
        return f"of shape {value.shape}"
    told = f"of {len(value)} bytes" if isinstance(value, bytes) else repr(value) if isinstance(value, str) else value
    return str(told)[:200]
