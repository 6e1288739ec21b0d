"""The steps of training of one adapter of one model, counted on the steps of its optimisers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Method
from subspace_tuning.tuner.layer import LAYERS, SubspaceLayer
from subspace_tuning.tuner.whole import PartValues, Values, WholeWeight

ENDLESS = sys.maxsize  # steps in all, for methods that need not know how many


@dataclass
class LayerSeat:
    """One layer as a method sees it between steps."""

    name: str
    W: Weight
    values: Values
    memory: dict[str, Any] = field(default_factory=dict)

    def within(self, prefix: str) -> LayerSeat:
        return LayerSeat(self.name, self.W, self.values.within(prefix), self.memory.setdefault(prefix, {}))


@dataclass
class Step:
    """A step of training while its optimisers take it: one, or several that hold parts of the adapter."""

    number: int
    kept: dict[str, Any]  # what outlives it
    waiting: set[int] = field(default_factory=set)  # parameters with a gradient that none has moved yet, by id
    moving: set[int] = field(default_factory=set)  # those that an optimiser is at
    moved: set[int] = field(default_factory=set)


class Clock:
    """Counts the steps of an adapter and calls ``before_step`` and ``after_step`` of its methods, once a step.

    A step begins with the first optimiser that moves a parameter of the adapter, and ends when each parameter with a
    gradient has been moved, or when an optimiser comes round again. The number of the step and what methods remember
    live in the parameter groups of the optimiser that begins it, so that they are saved and loaded along with its
    moments, by whatever saves it. ``total`` is the number of all steps; ``done`` the number of those behind, where a
    trainer says so.
    """

    def __init__(self, adapter: str, total: int | None = None):
        self.adapter, self.total = adapter, total
        self.done: int | None = None
        self.in_loss = False  # whether the loss of this step has the penalty in it
        self._penalty: tuple[Any, int] = (0.0, 0)  # the sum over steps since it was last asked for, and their number
        self._step: Step | None = None
        self._unheld: set[int] = set()  # parameters, by id, that get gradients and are in no optimiser
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:  # a copied model has taken no step
        return {**self.__dict__, "_step": None, "_unheld": set(), "_penalty": (0.0, 0), "in_loss": False}

    def layers(self) -> list[SubspaceLayer]:
        return [layer for layer in list(LAYERS.values()) if layer.clocks.get(self.adapter) is self]

    def parameters(self) -> Iterator[nn.Parameter]:
        return (p for layer in self.layers() for p in layer.trained(self.adapter).values())

    def note(self, penalty: Tensor) -> None:
        total, steps = self._penalty
        self._penalty = total + penalty.detach(), steps + 1

    def mean_penalty(self) -> float | None:
        """Over the steps since it was last asked for; None where there was no penalty."""
        (total, steps), self._penalty = self._penalty, (0.0, 0)
        return float(total) / steps if steps else None

    def check_whole(self) -> None:
        """Raise RuntimeError where the adapter's matrices are no matrices any more."""
        if any(getattr(p, "_fsdp_flattened", False) for p in self.parameters()):
            raise RuntimeError(
                f"the adapter {self.adapter!r} acts on matrices at the optimiser's step, and FSDP's first version has "
                "flattened them; use FSDP2 (torch's fully_shard, or fsdp_version: 2 for accelerate)"
            )

    def begin(self, optimizer: torch.optim.Optimizer, held: dict[int, int]) -> None:
        """The optimiser, which holds these parameters (id -> place), is about to move them."""
        if self._step is not None and not self._step.moving.isdisjoint(held):
            self._step = None  # it failed
        if self._step is not None and not self._step.moved.isdisjoint(held):
            self._unheld |= self._step.waiting
            self._finish()
        if self._step is None:
            kept = self._kept(optimizer, held)
            if self.done is not None:
                kept["step"], self.done = self.done, None
            self._step = Step(kept["step"] + 1, kept)
            self._call("before_step")
            self._step.waiting = self._with_gradients() - self._unheld
        self._step.moving |= held.keys() & self._with_gradients()

    def _with_gradients(self) -> set[int]:
        return {id(p) for p in self.parameters() if p.grad is not None}

    def end(self, held: dict[int, int]) -> None:
        """The optimiser has moved these."""
        if self._step is None or self._step.moving.isdisjoint(held):
            return
        self._step.moving -= held.keys()
        self._step.moved |= held.keys()
        self._step.waiting -= held.keys()
        self._unheld -= held.keys()
        if not self._step.waiting:
            self._finish()

    def _finish(self) -> None:
        self._call("after_step")
        assert self._step is not None
        self._step.kept["step"] = self._step.number
        self._step, self.in_loss = None, False

    def _kept(self, optimizer: torch.optim.Optimizer, held: dict[int, int]) -> dict[str, Any]:
        """What is kept from step to step in an optimiser, by the place that the first parameter has there."""
        place = min(held[id(p)] for p in self.parameters() if id(p) in held)
        everyone: dict[str, dict[str, Any]] = optimizer.param_groups[0].setdefault("subspace_tuning", {})
        return everyone.setdefault(str(place), {"step": 0, "layers": {}})

    @torch.no_grad()
    def _call(self, name: str) -> None:
        assert self._step is not None
        for method, seats in self._seats(self._step.kept["layers"]):
            if method.needs_total and self.total is None:
                self._warn(method)
                continue
            getattr(method, name)(seats, self._step.number, self.total or ENDLESS)
            for seat in seats:
                seat.values.put_back()

    def _seats(self, memories: dict[str, Any]) -> Iterator[tuple[Method, Sequence[LayerSeat]]]:
        found: dict[str, tuple[Method, list[LayerSeat]]] = {}
        for layer in self.layers():
            method = layer.methods[self.adapter]
            trained = any(p.requires_grad for p in layer.trained(self.adapter).values())
            if method.on_step and trained:
                held, seats = layer.values(self.adapter), found.setdefault(method.describe(), (method, []))[1]
                for part in layer.parts:
                    name = part.under(layer.path)
                    values = PartValues(held, part.of) if part.name else Values(held)
                    memory = _on(values.device, memories.setdefault(name, {}))
                    seats.append(LayerSeat(name, WholeWeight(part.W), values, memory))
        yield from found.values()

    def _warn(self, method: Method) -> None:
        if not self._warned:
            warnings.warn(
                f"{method.describe()} goes by the number of all steps of training, which nothing has told, and so does "
                "nothing between them: transformers' Trainer tells it; for a loop of your own, give "
                "SubspaceConfig(total_steps=...) or call subspace_tuning.set_total_steps(model, ...)",
                stacklevel=2,
            )
        self._warned = True


def _on(device: torch.device, memory: dict[str, Any]) -> dict[str, Any]:
    """What is remembered, where the layer is: a checkpoint may have been read elsewhere."""
    for name, value in memory.items():
        if isinstance(value, dict):
            _on(device, value)
        elif isinstance(value, Tensor) and value.device != device:
            memory[name] = value.to(device)
    return memory


def clocks_of(model: nn.Module) -> list[Clock]:
    """The clocks of a model's adapters."""
    found = (c for m in model.modules() if isinstance(m, SubspaceLayer) for c in m.clocks.values())
    return list(dict.fromkeys(found))


def set_total_steps(model: nn.Module, total: int, done: int = 0) -> None:
    """Say how many steps training takes in all, and how many of them are behind.

    Methods whose schedule goes by it (AdaLoRA, FlexLoRA, diff pruning) act by themselves at each step of the optimiser;
    transformers' Trainer says this by itself. Raises ValueError for a number that is none.
    """
    if not 0 <= done <= total or total < 1:
        raise ValueError(f"total is a number of steps above 0, and done one up to it; got total={total}, done={done}")
    for clock in clocks_of(model):
        clock.total, clock.done = total, done
