"""What transformers' Trainer says by itself: the number of all steps, those behind, and the penalty in its logs."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from transformers import TrainerCallback

from subspace_tuning.tuner.clock import Clock, clocks_of, set_total_steps

PATIENCE = 20  # steps of a Trainer, some of which GradScaler may skip, before silence of the optimiser is a fault


def join_trainers() -> None:
    """From now on, every Trainer that is made begins with a StepCallback."""
    from transformers import trainer  # slow to import

    everyone: list[type[TrainerCallback]] = trainer.DEFAULT_CALLBACKS  # type: ignore[assignment]
    if StepCallback not in everyone:
        everyone.append(StepCallback)


class StepCallback(TrainerCallback):
    """Tells adapters of the steps in all, and logs of the penalty; nobody needs to give it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        set_total_steps(model, state.max_steps, state.global_step)
        self._began, self._warned = state.global_step, False

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self._began + PATIENCE:
            self._check(model, args)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step > self._began:
            self._check(model, args)

    def _check(self, model: nn.Module, args: Any) -> None:
        unheard = [c for c in clocks_of(model) if c.done is not None and _acts(c)]
        if unheard and not self._warned:
            self._warned = True
            warnings.warn(
                f"the adapter {unheard[0].adapter!r} acts at steps of torch's optimisers, and none has been taken: "
                "what trains it is another engine (DeepSpeed's, say), or does not hold its parameters. Its penalties "
                "and what it does between steps are missing",
                stacklevel=2,
            )

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """The mean over the steps since the last log, as the loss is."""
        if not logs or "loss" not in logs:  # those of an evaluation, or of the end
            return
        found = [p for clock in clocks_of(model) if (p := clock.mean_penalty()) is not None]
        if found:
            logs["penalty"] = sum(found)
            if state.log_history:
                state.log_history[-1]["penalty"] = logs["penalty"]


def _acts(clock: Clock) -> bool:
    methods = [layer.methods[clock.adapter] for layer in clock.layers()]
    return any(m.on_step or m.penalises for m in methods) and any(p.requires_grad for p in clock.parameters())
