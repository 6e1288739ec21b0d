"""Files and folders that are never half-written: made aside, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subspace_tuning.errors import BadInput


def write(path: Path, text: str) -> None:
    """Write a file aside, then rename it."""
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def free(out: str | Path) -> Path:
    """The folder to make. Raises BadInput where something is there already."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists already and is not an empty folder; name a new one")
    return out


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write that takes its place only when all went well; one that was there before is replaced."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes its place only when all went well; one that was there before is replaced."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
