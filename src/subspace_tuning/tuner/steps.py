"""Methods and penalties act by themselves: on every step of every torch optimiser that holds their parameters.

torch calls what is registered here at each optimiser's step, whoever makes it: a plain loop, accelerate, Trainer, TRL,
Lightning, GradScaler. DeepSpeed's engine has optimisers of its own, and there nothing acts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from subspace_tuning.tuner.clock import Clock
from subspace_tuning.tuner.layer import LAYERS
from subspace_tuning.tuner.penalty import charge

_STEP = Optimizer.profile_hook_step(lambda self: None).__code__  # the frame in which torch calls hooks and steps


def listen() -> None:
    """From now on, hear of all steps of all optimisers."""
    register_optimizer_step_pre_hook(torch.compiler.disable(_before))
    register_optimizer_step_post_hook(torch.compiler.disable(_after))


def _before(optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    held = _held(optimizer)
    if not any(_clocks(held)) or _skips(optimizer) or _is_within_another(held):
        return None
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        _unscale(optimizer)
        _begin(optimizer, held)
        return None
    closure = _Closure(closure, optimizer, held)
    return ((args[0], closure, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": closure})


def _after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    held = _held(optimizer)
    clocks = list(_clocks(held))
    if clocks and not _is_within_another(held):
        for clock in clocks:
            clock.end(held)


class _Closure:
    """What an optimiser calls to have loss and gradients computed anew: each time with the penalty, the first time as
    the beginning of a step."""

    def __init__(self, compute: Callable[[], Any], optimizer: Optimizer, held: dict[int, int]):
        self.compute, self.optimizer, self.held, self.again = compute, optimizer, held, False

    def __call__(self) -> Any:
        loss = self.compute()
        term = _begin(self.optimizer, self.held, self.again)
        self.again = True
        return loss if loss is None or term is None else loss + term


@torch.no_grad()
def _begin(optimizer: Optimizer, held: dict[int, int], again: bool = False) -> Tensor | None:
    """With the gradients at hand: the penalty's join them, and methods hear of the step."""
    terms = []
    for clock in _clocks(held):
        if not any(p.grad is not None for p in clock.parameters() if id(p) in held):
            continue
        clock.check_whole()
        term = None if clock.in_loss else charge(clock, held)
        if term is not None:
            terms.append(term)
        if not again:
            clock.begin(optimizer, held)
            if term is not None:
                clock.note(term)
    return torch.stack([t.to(terms[0].device) for t in terms]).sum() if terms else None


def _held(optimizer: Optimizer) -> dict[int, int]:
    """The parameters of an optimiser: id -> place."""
    if not LAYERS:
        return {}
    return {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}


def _clocks(held: dict[int, int]) -> Iterator[Clock]:
    """Of the adapters that act and have parameters there."""
    found: dict[Clock, None] = {}
    for layer in list(LAYERS.values()):
        for adapter, clock in layer.clocks.items():
            acts = layer.methods[adapter].on_step or layer.methods[adapter].penalises
            if acts and any(id(p) in held for p in layer.trained(adapter).values()):
                found[clock] = None
    return iter(found)


def _skips(optimizer: Optimizer) -> bool:
    """Whether a fused optimiser will not move, because GradScaler has found infinities."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _unscale(optimizer: Optimizer) -> None:
    """Take GradScaler's scale out of the gradients, where it leaves that to a fused optimiser."""
    if (scale := getattr(optimizer, "grad_scale", None)) is not None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(scale.to(p.grad.device))
        optimizer.grad_scale = None  # type: ignore[attr-defined]


def _is_within_another(held: dict[int, int]) -> bool:
    """Whether another step with some of these parameters is under way that called this one (wrappers of optimisers):
    then that one acts."""
    frame, outer = sys._getframe(), False
    while frame is not None:
        if frame.f_code is _STEP:
            if outer and not held.keys().isdisjoint(_held(frame.f_locals["self"])):
                return True
            outer = True
        frame = frame.f_back  # type: ignore[assignment]
    return False
