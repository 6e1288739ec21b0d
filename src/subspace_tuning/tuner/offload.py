"""Frozen layers whose weights accelerate keeps on the CPU or on disk, and brings in when their forward is called.

An equation also reads W without calling the layer, and parameters of methods live in containers that nothing calls. So
W is held in memory while an equation is at work on it; the parameters, which are small, are not offloaded at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from torch import nn

from subspace_tuning.weights.slices import Slice

HERE = nullcontext()


def at_hand(layer: nn.Module) -> AbstractContextManager[None]:
    """Within this, an offloaded layer holds its weight, however often it is called; what was written is kept."""
    layer = layer.host if isinstance(layer, Slice) else layer
    hook = vars(layer).get("_hf_hook")
    return _at_hand(layer, hook) if getattr(hook, "offload", False) else HERE


@contextmanager
def _at_hand(layer: nn.Module, hook: Any) -> Iterator[None]:
    away = any(p.is_meta for p in layer.parameters(recurse=False))  # else somebody else has brought it
    if away:
        hook.pre_forward(layer)
    brought = dict(layer.named_parameters(recurse=False))
    hook.offload = False
    try:
        yield
    finally:
        hook.offload = True
        if away:
            _put_away(layer, hook, brought)


def keep_here(model: Any, path: str, layer: nn.Module, device: torch.device) -> None:
    """Say in the device map of a dispatched model where the parameters of methods are: transformers loads by it."""
    for name, _ in layer.named_children():
        if name.startswith("subspace_"):
            model.hf_device_map[f"{path}.{name}"] = str(device)


def _put_away(layer: nn.Module, hook: Any, brought: dict[str, nn.Parameter]) -> None:
    held = dict(layer.named_parameters(recurse=False))
    if any(held[name] is not p for name, p in brought.items()):
        hook.weights_map = {name: p.detach().to("cpu") for name, p in held.items()}
    hook.post_forward(layer, None)


def take_back(containers: list[nn.ModuleDict]) -> None:
    """Bring the parameters of methods back that were offloaded with the model."""
    for container in containers:
        for module in container._modules.values():
            if "_hf_hook" in vars(module):
                remove_hook_from_module(module)
