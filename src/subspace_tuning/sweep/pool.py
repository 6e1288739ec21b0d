"""Where runs are performed: a pool takes runs and tells how they ended. Here the one of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import torch

from subspace_tuning.errors import BadInput, Interrupted
from subspace_tuning.run.side_by_side import cores, quiet, threads_each
from subspace_tuning.sweep.plan import Run
from subspace_tuning.sweep.worker import CLAIMS, TRAIN, Outcome, import_runner, keep_alive, perform

Ended = list[tuple[Run, Outcome]]


class Pool(Protocol):
    """Workers that perform one run at a time; the folder that they share holds the runs."""

    jobs: int

    @property
    def free(self) -> int: ...

    def submit(self, run: Run) -> None: ...

    def wait(self, seconds: float) -> Ended:
        """The runs that ended, as soon as there is one or the time is up."""

    def close(self) -> None: ...


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    index: int
    run: Run | None = None


class LocalPool:
    """Processes that live from run to run; one that dies is replaced.

    jobs: how many; threads: of each, its share of the cores unless told; start: how processes are started, forkserver
    where there is one. Where there are accelerators, each process gets its share of one, or ``gpus`` of them (0.5: two
    processes share one). ``runner`` names the function that performs a run.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int,
        runner: str = TRAIN,
        *,
        threads: int | None = None,
        start: str | None = None,
        gpus: float = 0.0,
    ):
        self.jobs, self._folder, self._runner, self._gpus = jobs, folder, runner, gpus
        self._threads = threads or threads_each(jobs)
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context(start or ("forkserver" if has_server else "spawn"))
        if self._context.get_start_method() == "forkserver":
            self._context.set_forkserver_preload([__name__, runner.partition(":")[0]])
        self._workers = [self._hire(index) for index in range(jobs)]

    @property
    def free(self) -> int:
        return sum(worker.run is None for worker in self._workers)

    def submit(self, run: Run) -> None:
        worker = next(worker for worker in self._workers if worker.run is None)
        try:
            worker.pipe.send(run)
        except OSError:  # it died while it had nothing to do
            worker = self._replace(worker)
            worker.pipe.send(run)
        worker.run = run

    def wait(self, seconds: float) -> Ended:
        busy = [worker for worker in self._workers if worker.run is not None]
        ready = set(wait([x for w in busy for x in (w.pipe, w.process.sentinel)], seconds))
        ended: Ended = []
        for worker in busy:
            run = worker.run
            if run is not None and ready & {worker.pipe, worker.process.sentinel}:
                try:
                    ended.append((run, worker.pipe.recv()))
                    worker.run = None
                except (EOFError, OSError):
                    ended.append((run, Outcome("crashed", _last_words(worker.process))))
                    self._replace(worker)
        return ended

    def close(self) -> None:
        for worker in self._workers:
            if worker.run is not None:
                worker.process.kill()  # files are never half-written, so that this is safe at any moment
            else:
                with suppress(OSError):  # it died already
                    worker.pipe.send(None)
        for worker in self._workers:
            worker.process.join(5)
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()

    def _hire(self, index: int) -> _Worker:
        mine, theirs = self._context.Pipe()
        share = _Share(self._threads, *_accelerators(index, self.jobs, self._gpus))
        arguments = (theirs, self._folder, self._runner, share)
        process = self._context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, mine, index)

    def _replace(self, worker: _Worker) -> _Worker:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        new = self._hire(worker.index)
        self._workers[worker.index] = new
        return new


@dataclass(frozen=True)
class _Share:
    """What one worker may use of the machine."""

    threads: int
    accelerators: str | None = None
    memory: float = 1.0  # of each


def _accelerators(index: int, jobs: int, gpus: float) -> tuple[str | None, float]:
    count = torch.cuda.device_count()
    if count == 0:
        return None, 1.0
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    if gpus >= 1:
        each = int(gpus)
        return ",".join(seen[index * each : (index + 1) * each]), 1.0
    share = gpus or 1 / -(-jobs // count)
    return seen[index % count], share


def serve(pipe: Connection, folder: Path, runner: str, share: _Share) -> None:
    """A worker's life: take a run, perform it, tell how it ended, until there is None."""
    from subspace_tuning.files.claims import Claims

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if share.accelerators is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.accelerators
        torch.cuda.set_per_process_memory_fraction(share.memory)
    quiet(share.threads)
    claims = Claims(folder / CLAIMS)
    keep_alive(claims, getattr(multiprocessing.parent_process(), "sentinel", None))
    work = import_runner(runner)
    try:
        while (run := pipe.recv()) is not None:
            pipe.send(perform(run, work, claims))
    except Interrupted as error:  # what it was at is saved
        raise SystemExit(error.code) from None
    finally:
        claims.leave()


def _last_words(process: Any) -> str:
    process.join(5)
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"the worker was ended by {name}" + ("; was memory short?" if -code == signal.SIGKILL else "")
    return f"the worker ended with code {code}"


def usual_jobs(models: Sequence[str], gpus: float = 0.0) -> int:
    """As many as there are accelerators, or as ``gpus`` of them go into; else cores, as far as the memory goes.

    Raises BadInput where there are fewer accelerators than a run is to have.
    """
    import psutil

    if gpus:
        there = torch.cuda.device_count()
        if (fit := there * int(1 / gpus + 1e-9) if gpus < 1 else there // int(gpus)) == 0:
            raise BadInput(f"a run is to have {gpus:g} GPUs, and this machine has {there}; ask for less")
        return fit
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    if torch.accelerator.is_available():
        return 1
    need = max(map(_bytes_needed, models))
    return max(1, min(cores(), int(psutil.virtual_memory().available // need)))


def _bytes_needed(model: str) -> int:
    """Roughly: the libraries, the kept model, and weights, gradients and two moments of Adam for full fine-tuning."""
    from subspace_tuning.files.assets import location

    path = Path(location(model))
    weights = sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else 500 << 20
    return (1 << 30) + 5 * weights
