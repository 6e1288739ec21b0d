"""Whether a model calls the layers that are tuned: some owners read the weights of their children and never call them.

Where that is known, they read phi(W) (see read.py). Elsewhere a method changes nothing and trains nothing, so the first
forward pass in training looks whom it reaches.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import nn

from subspace_tuning.errors import few
from subspace_tuning.tuner.layer import SubspaceLayer


class Bypassed(UserWarning):
    """Tuned layers whose weights were read, but whose forward was not called: their adapters have no effect."""


def watch(model: nn.Module) -> None:
    """Look, at the next forward pass in training, which tuned layers it reaches; warn of those it does not."""
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, _Look):
            hook.due = True
            return
    look = _Look()
    model.register_forward_pre_hook(look)
    model.register_forward_hook(look.after)


class _Look:
    """What happens around a forward pass."""

    def __init__(self) -> None:
        self.due = True
        self.missed: dict[str, SubspaceLayer] = {}
        self.handles: list[Any] = []

    def __call__(self, model: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or not (self.due and model.training and torch.is_grad_enabled()):
            return
        self.due = False
        for name, layer in model.named_modules():
            if isinstance(layer, SubspaceLayer) and layer.holds_trained:
                layer.was_read = False
                self.missed[name] = layer
                self.handles.append(layer.register_forward_pre_hook(partial(self.reached, name)))

    def reached(self, name: str, layer: nn.Module, args: Any) -> None:
        self.missed.pop(name, None)

    def after(self, model: nn.Module, args: Any, output: Any) -> None:
        if not self.handles:
            return
        for handle in self.handles:
            handle.remove()
        missed = {k: layer for k, layer in self.missed.items() if not (layer.answers_reading and layer.was_read)}
        missed = {k: layer for k, layer in missed.items() if not layer.followers}  # who share its weight go by phi(W)
        self.missed, self.handles = {}, []
        bypassed = [name for name, layer in missed.items() if layer.was_read]
        idle = [name for name in missed if name not in bypassed]
        if bypassed:
            warnings.warn(
                f"the weights of {few(bypassed)} are read by the module that holds them and their forward is never "
                "called: a method there has no effect; leave them out by exclude_modules",
                Bypassed,
                stacklevel=2,
            )
        if idle:
            warnings.warn(
                f"{few(idle)} took no part in the first forward pass in training; a method there has an effect only "
                "if a later pass calls them (experts, dropped layers)",
                stacklevel=2,
            )
