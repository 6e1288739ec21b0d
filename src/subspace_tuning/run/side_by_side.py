"""Runs several recipes at once, each in a fresh process of its own, so that memory and seeds are a run's own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.run.folder import Result
from subspace_tuning.run.recipe import Recipe

Outcome = tuple[int, Result | Exception]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(processes: int) -> int:
    """Threads of each of so many processes: OMP_NUM_THREADS where it is set, else an even share of the cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) else max(1, cores() // processes)


def run_all(recipes: Sequence[Recipe], workers: int | None = None, *, again: bool = False) -> Iterator[Outcome]:
    """(number of the recipe, its result or what went wrong) in the order in which the runs end.

    Without ``workers`` one process a core, four at most, each with its ``threads_each``: on small models two single
    threads do more than one pair. With an accelerator one after the other. A server process imports the libraries once
    and forks for each run (where the system can fork).
    """
    usual = 1 if torch.accelerator.is_available() else min(cores(), 4)
    workers = min(workers or usual, len(recipes))
    threads = threads_each(workers)
    context = fresh("subspace_tuning.run.train")
    done = context.Queue()
    waiting = list(enumerate(recipes))
    running: dict[int, multiprocessing.process.BaseProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, recipe = waiting.pop(0)
                process = context.Process(target=_run, args=(number, recipe, again, threads, done), daemon=True)
                process.start()
                running[number] = process
            try:
                ended: Outcome | None = done.get(timeout=1)
            except queue.Empty:
                ended = _crashed(running)
            if ended is not None:
                running.pop(ended[0]).join()
                yield ended
    finally:
        for process in running.values():
            process.terminate()


def fresh(module: str) -> Any:
    """How to start processes that know nothing of this one, and have this module imported where the system can fork."""
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload([module])
    return context


def _crashed(running: dict[int, multiprocessing.process.BaseProcess]) -> Outcome | None:
    """A run whose process ended without a word (killed for memory, say)."""
    for number, process in running.items():
        if process.exitcode not in (None, 0):
            return number, RunFailed(f"the run's process ended with code {process.exitcode}; was memory short?")
    return None


def _run(number: int, recipe: Recipe, again: bool, threads: int, done: multiprocessing.Queue) -> None:
    from subspace_tuning.run.train import run

    quiet(threads)
    try:
        outcome: Result | Exception = run(recipe, again=again)
    except (BadInput, RunFailed) as error:
        outcome = error
    except Exception as error:
        outcome = RunFailed(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return  # the parent was interrupted too and tells of it
    done.put((number, outcome))


def quiet(threads: int) -> None:
    """This process is for runs: so many threads, and libraries that keep to themselves."""
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
