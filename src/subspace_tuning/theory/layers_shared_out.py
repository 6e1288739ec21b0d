"""Layers shared out among processes: each opens the checkpoints for itself and holds the tensors of one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

from subspace_tuning.errors import RunFailed
from subspace_tuning.method import Method, registry
from subspace_tuning.run.side_by_side import fresh, quiet, threads_each

T = TypeVar("T")
R = TypeVar("R")
Make = Callable[[T], R]


def each(
    tasks: Sequence[T],
    here: Make[T, R],
    opened: Callable[[], AbstractContextManager[Make[T, R]]],
    workers: int = 1,
) -> Iterator[tuple[T, R]]:
    """(task, what was made of it), as they are finished: ``here`` in this process, or by several at once.

    opened: what a process of its own opens to do the same; it goes there, so that it must be picklable.
    Raises RunFailed where a process ends without a word.
    """
    workers = min(workers, len(tasks))
    if workers < 2:
        yield from ((task, here(task)) for task in tasks)
        return
    threads = threads_each(workers)
    pool = ProcessPoolExecutor(
        workers, fresh("subspace_tuning.theory.layer_fit"), _begin, (opened, threads, _brought())
    )
    try:
        waiting = {pool.submit(_made, task): task for task in tasks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool as error:
        raise RunFailed("a process that shares the layers ended without a word; was memory short?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _brought() -> list[type[Method]]:
    """Methods from elsewhere. Another process needs them too: it imports their modules when it is given them."""
    known = registry.METHODS.values()
    return [m for m in known if not m.__module__.startswith("subspace_tuning.") and "<locals>" not in m.__qualname__]


_open = ExitStack()  # of a process of its own, until it ends
_make: list[Callable[[Any], Any]] = []


def _begin(opened: Callable[[], AbstractContextManager[Any]], threads: int, brought: list[type[Method]]) -> None:
    quiet(threads)
    _make.append(_open.enter_context(opened()))


def _made(task: Any) -> Any:
    return _make[0](task)
