"""Weights and biases that a layer computes from what it stores: torch's parametrizations, and the hooks of before
(weight_norm, spectral_norm, pruning).

They are written by what is stored, where that makes exactly what was to be written: a weight_norm's g and v make any
weight; what a spectral_norm makes has a norm of 1. Elsewhere nothing is written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from subspace_tuning.weights.written import NotTaken

ROUNDING = 8  # times the precision of the numbers: what computing them once more may cost


class Made:
    """A tensor of a layer, and the tensors that it is computed from: ``sources`` of ``holder``."""

    def __init__(self, layer: nn.Module, name: str, holder: nn.Module, sources: list[str], kind: str):
        self.layer, self.name, self.holder, self.sources, self.kind = layer, name, holder, sources, kind

    def inverse(self, value: Tensor) -> tuple[list[Tensor], Tensor]:
        """What would be stored for a value, and what is computed from that. Nothing is written."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Compute the tensor anew, where the layer keeps it until its next forward."""

    def stored(self) -> list[nn.Parameter]:
        return [getattr(self.holder, source) for source in self.sources]

    def store(self, stored: list[nn.Parameter]) -> None:
        for source, value in zip(self.sources, stored, strict=True):
            put(self.holder, source, value)
        self.refresh()

    def renew(self) -> None:
        for source in self.sources:
            renew(self.holder, source)

    def taken(self, value: Tensor) -> list[Tensor]:
        """What to store for a value. Raises NotTaken where nothing that could be stored makes it."""
        value = value.to(getattr(self.layer, self.name))
        try:
            with torch.no_grad():
                stored, made = self.inverse(value)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise NotTaken(f"{self._says}: {error}; {self._way_out}") from error
        if not bool((made - value).norm() <= ROUNDING * torch.finfo(value.dtype).eps * value.norm()):
            raise NotTaken(f"{self._says}, which makes something else of what is to be written; {self._way_out}")
        return stored

    def write(self, value: Tensor) -> None:
        for held, new in zip(self.stored(), self.taken(value), strict=True):
            held.data.copy_(new)
        self.refresh()

    @property
    def _says(self) -> str:
        return f"the {self.name} of {type(self.layer).__name__} is computed by {self.kind}"

    @property
    def _way_out(self) -> str:
        return (
            "keep the adapter unmerged, or take that away from the base model (torch.nn.utils.parametrize."
            f"remove_parametrizations, torch.nn.utils.remove_{self.name}_norm, ...) before the adapter is put on it"
        )


class ByParametrization(Made):
    """torch.nn.utils.parametrize."""

    def __init__(self, layer: Any, name: str):
        self.list: Any = layer.parametrizations[name]
        sources = ["original"] if self.list.is_tensor else [f"original{i}" for i in range(self.list.ntensors)]
        super().__init__(layer, name, self.list, sources, " and ".join(type(p).__name__ for p in self.list))

    def inverse(self, value: Tensor) -> tuple[list[Tensor], Tensor]:
        twin = copy.deepcopy(self.list).eval()
        twin.right_inverse(value.clone())
        return [getattr(twin, source).detach() for source in self.sources], twin()


class Hook(NamedTuple):
    """A kind of hook: the ends of the names of what it stores, and how these follow from W and make it."""

    ends: tuple[str, ...]
    inverse: Callable[[Any, Tensor], list[Tensor]]
    made: Callable[[Any, Any], Tensor]


HOOKS: dict[type, Hook] = {
    WeightNorm: Hook(
        ("_g", "_v"),
        lambda hook, W: [torch.norm_except_dim(W, 2, hook.dim), W],
        lambda hook, layer: hook.compute_weight(layer),
    ),
    SpectralNorm: Hook(
        ("_orig",), lambda hook, W: [W], lambda hook, layer: hook.compute_weight(layer, do_power_iteration=False)
    ),
    prune.BasePruningMethod: Hook(("_orig",), lambda hook, W: [W], lambda hook, layer: hook.apply_mask(layer)),
}


class ByHook(Made):
    """A hook that sets the tensor before each forward."""

    def __init__(self, layer: nn.Module, name: str, hook: Any, kind: Hook):
        self.hook, self.how = hook, kind
        super().__init__(layer, name, layer, [name + end for end in kind.ends], type(hook).__name__)

    def inverse(self, value: Tensor) -> tuple[list[Tensor], Tensor]:
        stored = self.how.inverse(self.hook, value)
        held = {**self.layer._parameters, **self.layer._buffers, **dict(zip(self.sources, stored, strict=True))}
        return stored, self.how.made(self.hook, SimpleNamespace(**held))

    def refresh(self) -> None:
        with torch.no_grad():
            setattr(self.layer, self.name, self.how.made(self.hook, self.layer))


def made_of(layer: nn.Module, name: str) -> Made | None:
    """How a weight or bias of a layer is computed, or None where it is stored itself."""
    if name in layer._parameters:
        return None
    if parametrize.is_parametrized(layer, name):
        return ByParametrization(layer, name)
    for hook in layer._forward_pre_hooks.values():
        called = getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)
        for kind, how in HOOKS.items() if called == name else ():
            if isinstance(hook, kind):
                return ByHook(layer, name, hook, how)
    return None


def refresh(layer: nn.Module) -> None:
    """Compute anew what a hook sets before each forward: what the layer has of it may be older than what is stored."""
    for name in ("weight", "bias") if layer._forward_pre_hooks else ():
        if (made := made_of(layer, name)) is not None:
            made.refresh()


def put(holder: nn.Module, name: str, part: nn.Parameter) -> None:
    """Put a tensor back, on the device and in the precision that the module has by now."""
    if not (now := getattr(holder, name)).is_meta:
        part.data = part.data.to(now)
    setattr(holder, name, part)


def renew(holder: nn.Module, name: str) -> None:
    """Give a module a tensor of its own: the one that it has may be tied, or be put back later."""
    own = getattr(holder, name)
    setattr(holder, name, nn.Parameter(own.detach().clone(), own.requires_grad))
