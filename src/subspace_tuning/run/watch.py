"""What is noted of a run while it trains: the trainer's logs, the time of its steps, a loss that is no number."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback

from subspace_tuning.bench import memory
from subspace_tuning.run import processes
from subspace_tuning.run.checkpoints import Checkpoints
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.saving import broke_down


class Watch(TrainerCallback):
    """Writes what the trainer logs, times the steps, and stops a run whose loss is no number any more."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.times: list[float] = []
        self._began = 0.0
        memory.start()

    @property
    def seconds_per_step(self) -> float:
        """The mean, without the first step, which warms up."""
        times = self.times[1:] or self.times or [0.0]
        return sum(times) / len(times)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter() - self._began)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if processes.is_first():
            self.folder.log({"step": state.global_step, **(logs or {})})
        for name in ("loss", "train_loss", "eval_loss"):
            loss = (logs or {}).get(name, 0.0)
            if not math.isfinite(loss):
                checkpoints = Checkpoints(self.folder.checkpoints)
                raise broke_down(f"the loss is {loss} at step {state.global_step}", args, checkpoints)
