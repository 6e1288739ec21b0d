"""From a task's name to its training rows and the rows it is judged by."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

from subspace_tuning.errors import BadInput
from subspace_tuning.files import assets
from subspace_tuning.files.text import UTF8
from subspace_tuning.tasks.rows import Split, rows_of
from subspace_tuning.tasks.table import SUFFIXES, read_table, table_of
from subspace_tuning.tasks.task import GLUE, MOVIE_REVIEWS, Task

HUB = "nyu-mll/glue"
HELD_OUT = 1000  # rows that are split off where a task has no validation split of its own, at most a fifth
SHUFFLE = 20240707  # data is shuffled the same way for every run: seeds differ in initialisation and order only


class Data(NamedTuple):
    train: Split
    validation: Split


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

    source: a folder (or ``<folder>/<task>`` below it) with train.* and validation.*, or one file; None for the hub.
    train_samples, eval_samples: at most so many, the same ones for every seed.
    hold_out: judge by rows split off the training rows, and leave the validation rows untouched (for searches).
    encoding: of the files that are text.
    """
    train, validation = _splits(task, source, encoding)
    if hold_out or validation is None:
        train, validation = _split_off(train)
    train, validation = _sample(train, train_samples), _sample(validation, eval_samples)
    return Data(train, validation)


def _splits(task: Task, source: str | None, encoding: str) -> tuple[Split, Split | None]:
    if source is not None:
        return _from_disk(task, Path(source).expanduser(), encoding)
    if task.name == MOVIE_REVIEWS.name:
        reviews = assets.movie_reviews()
        return _split_off(Split([(review.text,) for review in reviews], [review.label for review in reviews]))
    if task.name in GLUE:
        return _from_hub(task)
    raise BadInput(f"task: {task.name} needs data: a folder with train.* and validation.*, or one file")


def _from_disk(task: Task, source: Path, encoding: str) -> tuple[Split, Split | None]:
    if source.is_file():
        return rows_of(task, read_table(source, encoding)), None
    if not source.is_dir():
        raise BadInput(f"there is no data file or folder {source.absolute()}")
    folder = source / task.name if (source / task.name).is_dir() else source
    train = _file(folder, "train")
    if train is None:
        raise BadInput(f"{folder} has no training rows: expected a file train{'|'.join(SUFFIXES)}")
    validation = next((file for name in task.validation if (file := _file(folder, name))), None)
    rows = rows_of(task, read_table(train, encoding))
    return rows, None if validation is None else rows_of(task, read_table(validation, encoding))


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


def _from_hub(task: Task) -> tuple[Split, Split]:
    import datasets

    try:
        glue = datasets.load_dataset(HUB, task.name)
    except Exception as error:  # the hub's client has dozens of kinds
        raise BadInput(
            f"cannot load {task.name} from {HUB} on the hub ({type(error).__name__}); go online, or name with "
            f"data=FOLDER a local folder that holds train.parquet and {task.validation[0]}.parquet in {task.name}/"
        ) from error
    columns = (*task.columns, task.label)
    names = ("train", task.validation[0])
    parts = [table_of(f"{HUB}/{task.name}/{name}", {c: list(glue[name][c]) for c in columns}) for name in names]
    train, validation = (rows_of(task, part) for part in parts)
    return train, validation


def _split_off(rows: Split) -> tuple[Split, Split]:
    order = _shuffled(rows)
    held = min(HELD_OUT, len(order) // 5)
    if held == 0:
        raise BadInput(f"{len(order)} rows are too few to hold some out; give 5 or more, or a validation file")
    return rows.take(order[held:]), rows.take(order[:held])


def _sample(rows: Split, size: int | None) -> Split:
    if size is None or size >= len(rows.labels):
        return rows
    return rows.take(_shuffled(rows)[:size])


def _shuffled(rows: Split) -> list[int]:
    order = list(range(len(rows.labels)))
    random.Random(SHUFFLE).shuffle(order)
    return order
