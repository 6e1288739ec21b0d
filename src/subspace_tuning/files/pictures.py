"""Pictures as people keep them: files, bytes in tables, arrays of numbers."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table, table_of

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def opened(picture: Any) -> Image:
    """An RGB picture from a path, the bytes of a file, or numbers from 0 to 255, (h, w), (h, w, 1) or (h, w, 3).

    Raises BadInput for anything else.
    """
    from PIL import Image

    try:
        if isinstance(picture, np.ndarray):
            return Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).convert("RGB")
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            return image.convert("RGB")
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        shown = f"of shape {picture.shape}" if isinstance(picture, np.ndarray) else _name(picture)
        raise BadInput(f"cannot read the picture {shown}: {error}; expected {', '.join(SUFFIXES)}") from error


def pictures_of(table: Table, column: str) -> list[Any]:
    """A column of pictures: bytes, alone or as the hub's ``{"bytes": ...}``, paths below the table's folder, or arrays.

    Raises BadInput, with the row, for a value that is none.
    """
    if column not in table.columns:
        raise BadInput(f"{table.name} has no column {column!r}; its columns are {', '.join(table.columns)}")
    return [_picture(value, table, row) for row, value in enumerate(table.columns[column])]


def _picture(value: Any, table: Table, row: int) -> Any:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | np.ndarray | Path):
        return value
    if not isinstance(value, str) or not value:
        raise BadInput(f"{table.place(row)}: expected a picture, its bytes or its path, got {_name(value)}")
    folder = Path(table.name).parent.resolve()
    path = (folder / value).resolve()
    if not path.is_relative_to(folder):
        raise BadInput(f"{table.place(row)}: {value!r} leads out of {folder}; give paths of pictures below it")
    if not path.is_file():
        raise BadInput(f"{table.place(row)}: there is no picture {path}")
    return path


def by_folder(folder: Path, image: str, label: str) -> Table:
    """The pictures of a folder, each labelled by the folder below it that it is in."""
    found = sorted(p for p in folder.glob("*/**/*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise BadInput(f"{folder} has no pictures: expected a folder for each class, with {', '.join(SUFFIXES)} in it")
    return table_of(str(folder), {image: found, label: [p.relative_to(folder).parts[0] for p in found]})


def arrays(path: Path, columns: Sequence[str]) -> Table:
    """Arrays of a .npz file, a row each entry along their first axis. Nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as held:
            missing = [column for column in columns if column not in held]
            if missing:
                raise BadInput(f"{path} has no array {missing[0]!r}; it has {', '.join(held) or 'none'}")
            found = {column: held[column] for column in columns}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"cannot read {path} as arrays of numpy: {error}") from error
    sizes = {column: len(array) for column, array in found.items()}
    if len({*sizes.values()}) > 1:
        raise BadInput(f"{path}: the arrays have different lengths: {sizes}")
    return table_of(str(path), {c: [*array] if array.ndim > 1 else array.tolist() for c, array in found.items()})


def _name(value: Any) -> str:
    told = f"of {len(value)} bytes" if isinstance(value, bytes) else repr(value) if isinstance(value, str) else value
    return str(told)[:200]
