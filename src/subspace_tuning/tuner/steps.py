"""Methods that act between steps of training: schedules, masks, retractions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from subspace_tuning.algebra import Weight
from subspace_tuning.method.parameters import within
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.model import layers


@dataclass
class LayerSeat:
    """One layer as a method sees it between steps."""

    name: str
    W: Weight
    values: dict[str, Tensor]
    memory: dict[str, Any] = field(default_factory=dict)

    def within(self, prefix: str) -> LayerSeat:
        return LayerSeat(self.name, self.W, within(self.values, prefix), self.memory.setdefault(prefix, {}))


class Steps:
    """Calls ``before_step`` and ``after_step`` of every active method that has them.

    For a training loop of your own::

        steps = Steps(model, total=1000)
        loss.backward(); steps.before(); optimizer.step(); steps.after()
    """

    def __init__(self, model: nn.Module, total: int, done: int = 0):
        self.model, self.total, self.step = model, total, done + 1
        self._memories: dict[tuple[str, str], dict[str, Any]] = {}
        for layer in layers(model):
            layer.stepped = True

    def before(self) -> None:
        """With the gradients at hand, before the optimiser moves."""
        self._call("before_step")

    def after(self) -> None:
        """When the optimiser has moved."""
        self._call("after_step")
        self.step += 1

    @torch.no_grad()
    def _call(self, name: str) -> None:
        for method, seats in self._seats().values():
            getattr(method, name)(seats, self.step, self.total)

    def _seats(self) -> dict[str, tuple[Any, list[LayerSeat]]]:
        found: dict[str, tuple[Any, list[LayerSeat]]] = {}
        for path, layer in self.model.named_modules():
            if not isinstance(layer, SubspaceLayer) or layer.disable_adapters:
                continue
            for adapter in layer.active_adapters:
                method = layer.methods.get(adapter)
                if method is not None and method.on_step:
                    values = {k: group[k] for group in layer.held(adapter) for k in group}
                    memory = self._memories.setdefault((adapter, path), {})
                    seat = LayerSeat(path, layer.frozen, values, memory)
                    found.setdefault(f"{adapter} {method.describe()}", (method, []))[1].append(seat)
        return found


def needs_steps(model: nn.Module) -> bool:
    """Whether any method of the model acts between steps."""
    return any(method.on_step for layer in layers(model) for method in layer.methods.values())


class StepCallback(TrainerCallback):
    """Hands the steps of transformers' Trainer to the methods."""

    def __init__(self) -> None:
        self._steps: Steps | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._steps = Steps(model, total=state.max_steps, done=state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._steps is not None:
            self._steps.before()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._steps is not None:
            self._steps.after()
