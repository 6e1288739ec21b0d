"""The processes of one run, as torchrun or `accelerate launch` starts them: all compute, the first one writes.

A recipe says the same whatever their number: its batch_size is that of all of them together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import torch.distributed as dist
from torch.utils.data import Sampler

from subspace_tuning.errors import BadInput, Interrupted

T = TypeVar("T")
Number = TypeVar("Number", int, float)


def count() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the one that writes files and speaks."""
    return os.environ.get("RANK", "0") == "0"


def share_of(size: int, what: str) -> int:
    """What one process has of a batch. Raises BadInput where it cannot be shared out evenly."""
    if size % count():
        raise BadInput(f"{what}: {size} rows cannot be shared out among {count()} processes; take a multiple of that")
    return size // count()


def of_first(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them; where it fails there, the others end with the same exit code."""
    if count() == 1:
        return make()
    if not is_first():
        return _heard()
    try:
        made = make()
    except BaseException as error:
        _tell(None, _code(error))
        raise
    _tell(made, None)
    return made


@contextmanager
def led(context: AbstractContextManager[T]) -> Iterator[T]:
    """A context that the first process enters for all of them, and leaves when all have."""
    if count() == 1:
        with context as value:
            yield value
        return
    value = of_first(context.__enter__) if is_first() else _heard()
    try:
        yield value
        wait()
    except BaseException as error:
        if not is_first() or not context.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        if is_first():
            context.__exit__(None, None, None)


def total(number: Number) -> Number:
    """The sum over all processes."""
    return number if count() == 1 else sum(_all(number))


def greatest(number: int | None) -> int | None:
    """The greatest that one of the processes has, or None."""
    if count() == 1:
        return number
    return max((x for x in _all(number) if x is not None), default=None)


def wait() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        dist.barrier(_words())


class Even(Sampler[list[int]]):
    """Batches, one for each process in turn: rows in order, those of the last batch shared out as evenly as they go.

    Where fewer rows than processes are left, some count twice.
    """

    def __init__(self, order: Any, size: int, processes: int):
        self.sampler, self.size, self.processes = order, size, processes

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // (self.size * self.processes)) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.sampler)
        for start in range(0, len(rows), self.size * self.processes):
            part = rows[start : start + self.size * self.processes]
            ends = [i * len(part) // self.processes for i in range(self.processes + 1)]
            for i, (begin, end) in enumerate(pairwise(ends)):
                yield part[begin:end] or [part[i % len(part)]]


@lru_cache(maxsize=1)
def _words() -> Any:
    """A group on the CPU for words between processes: cards go on computing meanwhile."""
    return dist.new_group(backend="gloo")


def _tell(value: Any, code: int | None) -> None:
    dist.broadcast_object_list([value, code], 0, _words())


def _heard() -> Any:
    held: list[Any] = [None, None]
    dist.broadcast_object_list(held, 0, _words())
    value, code = held
    if code is not None:
        raise SystemExit(code)  # the first one says why
    return value


def _all(value: T) -> list[T]:
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value, _words())
    return found


def _code(error: BaseException) -> int:
    if isinstance(error, Interrupted):
        return error.code
    return 2 if isinstance(error, BadInput) else 1
