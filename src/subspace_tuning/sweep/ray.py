"""The pool of many machines: Ray places the workers, the runs go to the same folder, which all machines must see."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from subspace_tuning.errors import BadInput
from subspace_tuning.sweep.plan import Run
from subspace_tuning.sweep.pool import Ended
from subspace_tuning.sweep.worker import CLAIMS, TRAIN, Outcome


class _Performer:
    """One worker: an actor that keeps its model and data from run to run."""

    def __init__(self, folder: str, where: str, paths: list[str], runner: str, threads: int):
        os.chdir(where)  # paths in recipes are meant from here
        sys.path.extend(path for path in paths if path not in sys.path)
        from subspace_tuning.files.claims import Claims
        from subspace_tuning.run.side_by_side import quiet
        from subspace_tuning.sweep.worker import import_runner, keep_alive

        quiet(threads)
        self._claims = Claims(Path(folder) / CLAIMS)
        self._runner = import_runner(runner)
        keep_alive(self._claims)

    def perform(self, run: Run) -> Outcome:
        from subspace_tuning.sweep.worker import perform

        return perform(run, self._runner, self._claims)


class RayPool:
    """Workers on a Ray cluster, each with ``cpus`` cores and ``gpus`` accelerators (0.5: two share one).

    address: of a running cluster, ``auto`` for the one that this machine belongs to; None starts Ray on this machine.
    jobs: how many workers; None: as many as the cluster has room for. A worker that is lost with its machine is
    replaced. Raises BadInput where Ray is missing, does not answer or has no room for a worker.
    """

    def __init__(
        self,
        folder: Path,
        address: str | None = None,
        jobs: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        runner: str = TRAIN,
    ):
        ray = _ray()
        self._folder, self._runner, self._cpus, self._gpus = Path(folder), runner, cpus, gpus
        # Ray puts its own, which would end a later run in this process without a checkpoint.
        self._handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
        if not ray.is_initialized():
            try:
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error")
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise BadInput(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
        room = sum(_room(node["Resources"], cpus, gpus) for node in ray.nodes() if node["Alive"])
        if room == 0:
            raise BadInput(
                f"no machine of the Ray cluster has room for a worker of {cpus:g} cores and {gpus:g} GPUs; ask for less"
            )
        self.jobs = min(jobs or room, room)
        self._idle = [self._hire() for _ in range(self.jobs)]
        self._busy: dict[Any, tuple[Any, Run]] = {}  # what is to come -> (who performs it, what)

    @property
    def free(self) -> int:
        return len(self._idle)

    def submit(self, run: Run) -> None:
        worker = self._idle.pop()
        self._busy[worker.perform.remote(run)] = (worker, run)

    def wait(self, seconds: float) -> Ended:
        ray = _ray()
        ready, _ = ray.wait(list(self._busy), timeout=seconds)
        return [self._ended(promise) for promise in ready]

    def close(self) -> None:
        ray = _ray()
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            ray.kill(worker)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)

    def _ended(self, promise: Any) -> tuple[Run, Outcome]:
        ray = _ray()
        worker, run = self._busy.pop(promise)
        try:
            outcome = ray.get(promise)
        except ray.exceptions.RayError as error:
            self._idle.append(self._hire())
            return run, Outcome("crashed", f"the worker was lost: {str(error).strip().splitlines()[0]}")
        self._idle.append(worker)
        return run, outcome

    def _hire(self) -> Any:
        performer = _ray().remote(num_cpus=self._cpus, num_gpus=self._gpus)(_Performer)
        threads = max(1, int(self._cpus))
        return performer.remote(str(self._folder.resolve()), os.getcwd(), sys.path, self._runner, threads)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise BadInput("--engine ray needs Ray; run `pip install 'subspace-tuning[ray]'`") from error
    return ray


def _room(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """Workers that fit on one machine."""
    asked = [(resources.get("CPU", 0.0), cpus), (resources.get("GPU", 0.0), gpus)]
    return min((int(there / share + 1e-9) for there, share in asked if share > 0), default=1)
