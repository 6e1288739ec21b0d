"""When a run is saved, and what of it: sealed checkpoints of finite weights, none that would be resumed otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, set_seed

from subspace_tuning.errors import Interrupted, RunFailed
from subspace_tuning.run import processes
from subspace_tuning.run.checkpoints import Checkpoints
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.order import seed_of
from subspace_tuning.run.stop import Stop
from subspace_tuning.tuner.whole import whole


class Saving(TrainerCallback):
    """Seals what the trainer saves, and saves when the run is asked to end.

    At the end of an epoch it saves after the evaluation and not before it, so that an interrupted run has nothing to
    make up for. Raises RunFailed for weights that are no numbers, and Interrupted once a run that was asked to end is
    saved.
    """

    def __init__(self, folder: RunFolder, stop: Stop):
        self.folder, self.stop = folder, stop
        self.checkpoints = Checkpoints(folder.checkpoints)
        self._put_off = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (best := _best(args, state)) is not None:  # the folder may have been moved
            state.best_model_checkpoint = str(self.checkpoints.at(best))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        set_seed(seed_of(args.seed, "step", state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop.asked = processes.greatest(self.stop.asked)
        control.should_save |= self.stop.asked is not None
        if control.should_save and (float(state.epoch).is_integer() or state.global_step >= state.max_steps):
            control.should_save, self._put_off = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= self._put_off
        self._put_off = False

    def on_save(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        step = state.global_step
        if not (is_finite(model) and _is_finite(optimizer.state.values())):
            if processes.is_first():
                self.checkpoints.drop(step)
            raise broke_down(f"the weights are no numbers any more after step {step}", args, self.checkpoints)
        if processes.is_first():
            self.checkpoints.seal(step, _best(args, state), self.folder.noted)
        processes.wait()
        if self.stop.asked is not None:
            place = self.checkpoints.at(step)
            raise Interrupted(self.stop.asked, f"saved as {place}; the same command goes on from there")


def _best(args: Any, state: Any) -> int | None:
    """The step of the best checkpoint, where that one is wanted."""
    return state.best_global_step if args.load_best_model_at_end else None


def broke_down(what: str, args: Any, checkpoints: Checkpoints) -> RunFailed:
    """The sentence for a training that came to no numbers, with the place of the last that were."""
    steps = checkpoints.steps()
    kept = f"; {checkpoints.at(steps[0])} holds the last finite weights" if steps else ""
    return RunFailed(
        f"{what}: training broke down; lower the learning rate ({args.learning_rate:g}) or check the data{kept}"
    )


@torch.no_grad()
def is_finite(model: nn.Module) -> bool:
    """Whether all that is trained is numbers."""
    return _all_finite([p for p in model.parameters() if p.requires_grad])


@torch.no_grad()
def _is_finite(states: Any) -> bool:
    return _all_finite([x for state in states for x in state.values() if isinstance(x, torch.Tensor)])


def _all_finite(tensors: list[torch.Tensor]) -> bool:
    floats = [t for t in tensors if t.is_floating_point()]
    return not floats or bool(torch.stack([whole(t.isfinite().all()) for t in floats]).all())
