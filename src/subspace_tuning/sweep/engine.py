"""The loop of a sweep: hand out what is missing, retry what failed, and let nothing stop the others."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from subspace_tuning.errors import RunFailed
from subspace_tuning.sweep.plan import Run
from subspace_tuning.sweep.pool import Pool
from subspace_tuning.sweep.worker import Outcome, note_error

LOOK_AGAIN = 1.0  # seconds until a run that another process is at is looked at again


class Source(Protocol):
    """Where runs come from."""

    @property
    def left(self) -> bool:
        """Whether there are runs to come, now or once something is told."""

    def next(self) -> Run | None: ...

    def tell(self, run: Run, outcome: Outcome) -> None: ...


class Rounds:
    """Runs of several cells, the first cell first; a round of a cell begins when all runs of its last one have ended.

    rounds: for each cell its rounds, one after the other; the next one may depend on how the last one ended.
    """

    def __init__(self, rounds: Iterable[Iterator[list[Run]]]):
        self._cells = [cell for cell in map(_Cell, rounds) if not cell.is_done]

    @property
    def left(self) -> bool:
        return bool(self._cells)

    def next(self) -> Run | None:
        return next((cell.begin() for cell in self._cells if cell.ready), None)

    def tell(self, run: Run, outcome: Outcome) -> None:
        for cell in self._cells:
            cell.end(run)
        self._cells = [cell for cell in self._cells if not cell.is_done]


class _Cell:
    def __init__(self, rounds: Iterator[list[Run]]):
        self._rounds = rounds
        self.ready: deque[Run] = deque()
        self._at_work: set[str] = set()
        self._go_on()

    @property
    def is_done(self) -> bool:
        return not (self.ready or self._at_work)

    def begin(self) -> Run:
        run = self.ready.popleft()
        self._at_work.add(run.name)
        return run

    def end(self, run: Run) -> None:
        self._at_work.discard(run.name)
        self._go_on()

    def _go_on(self) -> None:
        while self.is_done and (more := next(self._rounds, None)) is not None:
            self.ready.extend(more)


@dataclass
class Progress:
    """How far a sweep is; ``changed`` is called whenever a run begins or ends."""

    total: int = 0
    finished: int = 0  # also before this sweep began
    failed: dict[str, str] = field(default_factory=dict)  # run -> what it said
    running: dict[str, float] = field(default_factory=dict)  # run -> when it began, on time.monotonic
    seconds: list[float] = field(default_factory=list)  # of the runs that ended here
    jobs: int = 1
    changed: Callable[[Progress, Run, Outcome | None], None] = lambda progress, run, outcome: None

    @property
    def mean_seconds(self) -> float | None:
        return sum(self.seconds) / len(self.seconds) if self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        mean = self.mean_seconds
        return None if mean is None else mean * (self.total - self.finished - len(self.failed)) / self.jobs

    def begins(self, run: Run) -> None:
        self.running[run.name] = time.monotonic()
        self.failed.pop(run.name, None)
        self.changed(self, run, None)

    def ends(self, run: Run, outcome: Outcome) -> None:
        took = time.monotonic() - self.running.pop(run.name)
        if outcome.status in ("finished", "cut short"):
            self.finished += 1
            self.seconds.append(took)
        elif outcome.status != "busy":
            self.failed[run.name] = outcome.said
        self.changed(self, run, outcome)


class TimeIsUp(Exception):
    """The sweep may take no longer."""


def work_off(source: Source, pool: Pool, retries: int, progress: Progress, until: float | None = None) -> None:
    """Perform all runs of a source, each failed one ``retries`` times more.

    until: a moment of ``time.monotonic`` at which running ones are left as they are, to go on from their checkpoints
    another time; none begins that would not be ready by then, as far as can be told. Raises TimeIsUp then, and
    RunFailed when the disk is full.
    """
    tries: Counter[str] = Counter()
    again: deque[Run] = deque()
    elsewhere: deque[tuple[float, Run]] = deque()
    at_work = 0
    while source.left or again or elsewhere or at_work:
        while pool.free and not _is_late(progress, until):
            run = _due(elsewhere) or (again.popleft() if again else source.next())
            if run is None:
                break
            progress.begins(run)
            pool.submit(run)
            at_work += 1
        for run, outcome in pool.wait(LOOK_AGAIN) if at_work else ():
            at_work -= 1
            progress.ends(run, outcome)
            if outcome.status == "full":
                raise RunFailed("the disk is full; free some space, and the same command goes on where it stopped")
            if outcome.status == "busy":
                elsewhere.append((time.monotonic() + LOOK_AGAIN, run))
                continue
            if outcome.status == "crashed":
                note_error(run, outcome.said)
            tries[run.name] += 1
            if outcome.status in ("failed", "crashed") and tries[run.name] <= retries:
                again.append(run)
            else:
                source.tell(run, outcome)
        if until is not None and (time.monotonic() >= until or (not at_work and _is_late(progress, until))):
            raise TimeIsUp
        if not at_work:
            time.sleep(0.05)


def _due(elsewhere: deque[tuple[float, Run]]) -> Run | None:
    return elsewhere.popleft()[1] if elsewhere and elsewhere[0][0] <= time.monotonic() else None


def _is_late(progress: Progress, until: float | None) -> bool:
    """Whether a run that begins now would not end in time."""
    return until is not None and time.monotonic() + (progress.mean_seconds or 0.0) > until
