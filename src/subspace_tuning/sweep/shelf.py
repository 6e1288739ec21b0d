"""Training one run after the other in one process: the model and the data are read once, and no run sees another's.

Each run gets a copy of the model as it was read. The head starts from the run's seed, so that it is made anew by
``load_model`` the first time a seed comes up; the encoded data stays with ``train.encoded``.
"""

from __future__ import annotations

import copy
import gc
import sys
from functools import lru_cache
from subprocess import Popen

import torch

from subspace_tuning.errors import RunFailed
from subspace_tuning.run import train
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.pretrained import Pretrained, load_model
from subspace_tuning.sweep.plan import Run
from subspace_tuning.tasks import Task

Head = dict[str, torch.Tensor]


def train_kept(run: Run) -> Result:
    """The runner of a sweep: what ``train.run`` does, with what earlier runs of this process have read.

    Where several GPUs are given, they are taken by as many processes.
    """
    from subspace_tuning.sweep.search import callbacks

    if (gpus := torch.cuda.device_count()) > 1:
        return train_together(run, gpus)
    try:
        return train.run(run.recipe, callbacks=callbacks(run), load=kept)
    finally:
        gc.collect()  # models and trainers refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def train_together(run: Run, processes: int) -> Result:
    """A run by several processes, as torchrun starts them. Raises RunFailed where they come to nothing."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with Popen([*torchrun, "-m", "subspace_tuning", "train", str(run.folder / "config.yaml")]) as started:
        try:
            code = started.wait()
        except BaseException:
            started.terminate()  # which it passes on
            raise
    done = RunFolder(run.folder).result()
    if code or done is None:
        raise RunFailed(f"its {processes} processes ended with code {code}; {run.folder / 'log.txt'} says why")
    return done


def kept(name: str, task: Task, seed: int = 0, dtype: str | None = None) -> Pretrained:
    """What ``load_model`` returns, without reading again what this process has read."""
    whole, head = _whole(name, task, dtype), _head(name, task, seed, dtype)
    model = copy.deepcopy(whole.model)
    model.load_state_dict(head, strict=False)
    return Pretrained(model, list(whole.head))


@lru_cache(maxsize=1)
def _whole(name: str, task: Task, dtype: str | None) -> Pretrained:
    return load_model(name, task, dtype=dtype)


@lru_cache(maxsize=64)
def _head(name: str, task: Task, seed: int, dtype: str | None) -> Head:
    """The parameters that the checkpoint does not carry."""
    whole = _whole(name, task, dtype)
    made = load_model(name, task, seed, dtype) if seed and whole.head else whole
    state = made.model.state_dict()
    return {key: value.clone() for key, value in state.items() if key.startswith(tuple(f"{h}." for h in made.head))}
