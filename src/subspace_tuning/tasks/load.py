"""From a task to its training rows and the rows it is judged by."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import SUFFIXES
from subspace_tuning.files.text import UTF8
from subspace_tuning.tasks.task import Row, Task

HELD_OUT = 1000  # rows that are split off where a task has no validation split of its own, at most a fifth
SHUFFLE = 20240707  # data is shuffled the same way for every run: seeds differ in initialisation and order only


class Data(NamedTuple):
    train: list[Row]
    validation: list[Row]


def load(
    task: Task,
    source: str | None = None,
    *,
    train_samples: int | None = None,
    eval_samples: int | None = None,
    hold_out: bool = False,
    encoding: str = UTF8,
) -> Data:
    """The rows of a task.

    source: a folder (or ``<folder>/<task>`` below it) with train.* and validation.*, or one file; None for the task's
    own, where it has some.
    train_samples, eval_samples: at most so many, the same ones for every seed.
    hold_out: judge by rows split off the training rows, and leave the validation rows untouched (for searches).
    encoding: of the files that are text.
    """
    if source is not None and (found := task.elsewhere(source)) is not None:
        train, validation = found
    elif source is not None:
        train, validation = _from_disk(task, Path(source).expanduser(), encoding)
    elif task.fetch is not None:
        train, validation = task.fetch(task)
    else:
        raise BadInput(f"task: {task.name} needs data: a folder with train.* and validation.*, or one file")
    if validation is None:
        train, validation = _split_off(train)
    if hold_out:
        train, validation = _split_off(train)
    return Data(_sample(train, train_samples), _sample(validation, eval_samples))


def _from_disk(task: Task, source: Path, encoding: str) -> tuple[list[Row], list[Row] | None]:
    if source.is_file():
        return task.read(source, encoding), None
    if not source.is_dir():
        raise BadInput(f"there is no data file or folder {source.absolute()}")
    folder = source / task.name if (source / task.name).is_dir() else source
    train = _file(folder, "train")
    if train is None:
        raise BadInput(f"{folder} has no training rows: expected a file train{'|'.join(SUFFIXES)}")
    validation = next((file for name in task.validation if (file := _file(folder, name))), None)
    return task.read(train, encoding), None if validation is None else task.read(validation, encoding)


def stamp(source: str | None) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files of a source change; for those who keep what they read."""
    if source is None:
        return ()
    path = Path(source).expanduser()
    found = sorted(path.rglob("*.*")) if path.is_dir() else [path]
    return tuple(
        (str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in found if p.suffix in SUFFIXES and p.is_file()
    )


def _file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _split_off(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    order = _shuffled(rows)
    held = min(HELD_OUT, len(order) // 5)
    if held == 0:
        raise BadInput(f"{len(order)} rows are too few to hold some out; give 5 or more, or a validation file")
    return [rows[i] for i in order[held:]], [rows[i] for i in order[:held]]


def _sample(rows: list[Row], size: int | None) -> list[Row]:
    if size is None or size >= len(rows):
        return rows
    return [rows[i] for i in _shuffled(rows)[:size]]


def _shuffled(rows: list[Row]) -> list[int]:
    order = list(range(len(rows)))
    random.Random(SHUFFLE).shuffle(order)
    return order
