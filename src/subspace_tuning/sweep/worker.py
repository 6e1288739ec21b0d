"""A process that performs runs: claimed before, logged meanwhile, and with a trace of what went wrong."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from subspace_tuning.errors import BadInput, RunFailed, is_disk_full
from subspace_tuning.files.aside import write
from subspace_tuning.files.claims import BEAT, Claims, Held, in_background
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.sweep.plan import Run

Runner = Callable[[Run], Result]
TRAIN = "subspace_tuning.sweep.shelf:train_kept"
CLAIMS = ".claims"  # a folder in the sweep's


class CutShort(Exception):
    """A search saw that a run would not become the best."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended; ``busy`` when another process is at it, ``full`` when the disk is."""

    status: Literal["finished", "failed", "refused", "crashed", "cut short", "busy", "full"]
    said: str = ""
    score: float | None = None
    seconds: float = 0.0


def perform(run: Run, runner: Runner, claims: Claims) -> Outcome:
    """Run it, unless it is finished or another process is at it. What goes wrong is written to its folder."""
    try:
        if not claims.take(run.name):
            return Outcome("busy")
        try:
            return _perform(run, runner)
        except Exception as error:
            return _failed(run, error)
        finally:
            claims.release(run.name)
    except (OSError, BadInput, RunFailed) as error:  # neither claimed nor told of
        return Outcome("full" if is_disk_full(error) else "failed", _said(error))


def _perform(run: Run, runner: Runner) -> Outcome:
    folder = RunFolder(run.folder)
    done = folder.result()
    if done is None:
        folder.open(run.recipe)
        with _logged(run.folder / "log.txt"):
            done = runner(run)
        (run.folder / "error.txt").unlink(missing_ok=True)
    else:
        folder.tidy()
    return Outcome("finished", score=done.score, seconds=done.seconds)


def _failed(run: Run, error: Exception) -> Outcome:
    if isinstance(error, Held):
        return Outcome("busy")
    if isinstance(error, CutShort):
        shutil.rmtree(RunFolder(run.folder).checkpoints, ignore_errors=True)
        return Outcome("cut short", str(error))
    said = _said(error)
    if is_disk_full(error):
        return Outcome("full", said)
    note_error(run, f"{''.join(traceback.format_exception(error))}\n{said}")
    return Outcome("refused" if isinstance(error, BadInput) else "failed", said)


def _said(error: Exception) -> str:
    known = isinstance(error, (BadInput, RunFailed))
    return str(error) if known else f"{type(error).__name__}: {error}"


def note_error(run: Run, told: str) -> None:
    """Leave error.txt in the run's folder, unless that folder is another's."""
    if (run.folder / "config.yaml").is_file():
        write(run.folder / "error.txt", told.rstrip() + "\n")


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Everything that this process prints goes to the file, also what libraries in C print; empty ones are removed."""
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with path.open("a", buffering=1, encoding="utf-8") as file:
        try:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
    if path.stat().st_size == 0:
        path.unlink()


def import_runner(path: str) -> Runner:
    """The function that ``package.module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def keep_alive(claims: Claims, parent: Any = None) -> None:
    """Beat in the background; end this process at once when its parent is gone, so that no run is left to itself."""

    def watch() -> None:
        from multiprocessing.connection import wait

        while not wait([parent] if parent is not None else [], BEAT):
            with contextlib.suppress(OSError):
                claims.beat()
        os._exit(1)

    in_background(watch)
