"""From a task to its training rows and the rows it is judged by."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from subspace_tuning.errors import BadInput
from subspace_tuning.files.text import UTF8
from subspace_tuning.tasks.mapped import picked
from subspace_tuning.tasks.task import Row, Task

HELD_OUT = 1000  # rows that are split off where a task has no validation split of its own, at most a fifth
SHUFFLE = 20240707  # data is shuffled the same way for every run: seeds differ in initialisation and order only


class Data(NamedTuple):
    train: Sequence[Row]
    validation: Sequence[Row]


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
        train, validation = _split_off(task, train)
    if hold_out:
        train, validation = _split_off(task, train)
    found = Data(_sample(task, train, train_samples), _sample(task, validation, eval_samples))
    for rows, what in zip(found, ("train on", "judge by"), strict=True):
        if not rows:
            raise BadInput(f"the data of task: {task.name} has no row to {what}; a row is {task.row}")
    task.check_judged(found.validation)
    return found


def _from_disk(task: Task, source: Path, encoding: str) -> tuple[Sequence[Row], Sequence[Row] | None]:
    if source.is_file():
        return task.read(source, encoding), None
    if not source.is_dir():
        raise BadInput(f"there is no data file or folder {source.absolute()}")
    folder = source / task.name if (source / task.name).is_dir() else source
    train = _file(task, folder, "train")
    if train is None:
        raise BadInput(f"{folder} has no training rows: expected a file train{'|'.join(task.suffixes)}")
    validation = next((file for name in task.validation if (file := _file(task, folder, name))), None)
    return task.read(train, encoding), None if validation is None else task.read(validation, encoding)


def stamp(task: Task, source: str | None) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files of a source change; for those who keep what they read."""
    if source is None:
        return ()
    path = Path(source).expanduser()
    found = sorted(path.rglob("*.*")) if path.is_dir() else [path]
    return tuple(
        (str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in found if p.suffix in task.suffixes and p.is_file()
    )


def _file(task: Task, folder: Path, name: str) -> Path | None:
    return next((path for suffix in task.suffixes if (path := folder / f"{name}{suffix}").is_file()), None)


def _split_off(task: Task, rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
    """Rows to train on, and at most a fifth of all to judge by, of which no group has rows in both."""
    groups = _shuffled(task, rows)
    held, rest = _drawn(groups, min(HELD_OUT, len(rows) // 5))
    if not held:
        if len(groups) == len(rows):
            raise BadInput(f"{len(rows)} rows are too few to hold some out; give 5 or more, or a validation file")
        raise BadInput(
            f"{len(rows)} rows in {len(groups)} groups that stay together ({task.row}) leave none to hold out, a "
            "fifth of all rows at most; give more, or a validation file"
        )
    return picked(rows, rest), picked(rows, held)


def _sample(task: Task, rows: Sequence[Row], size: int | None) -> Sequence[Row]:
    """At most so many rows, in whole groups where one of them is small enough."""
    if size is None or size >= len(rows):
        return rows
    groups = _shuffled(task, rows)
    return picked(rows, _drawn(groups, size)[0] or groups[0][:size])


def _drawn(groups: Sequence[Sequence[int]], size: int) -> tuple[list[int], list[int]]:
    """The rows of the groups, in turn, that have no more than so many together, and those of the others."""
    taken: list[int] = []
    others: list[int] = []
    for group in groups:
        (taken if len(taken) + len(group) <= size else others).extend(group)
    return taken, others


def _shuffled(task: Task, rows: Sequence[Row]) -> list[Sequence[int]]:
    """The numbers of the rows, by group, the groups in a fixed random order."""
    groups: dict[Hashable, list[int]] = {}
    order: list[Sequence[int]]
    if type(task).group is Task.group:
        order = [range(i, i + 1) for i in range(len(rows))]
    else:
        for i, row in enumerate(rows):
            key = task.group(row)
            groups.setdefault(i if key is None else ("group", key), []).append(i)
        order = list(groups.values())
    random.Random(SHUFFLE).shuffle(order)
    return order
