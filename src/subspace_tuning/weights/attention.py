"""nn.MultiheadAttention: queries, keys and values as slices of the one weight that it keeps for all three.

It reads its weights and calls nothing. While a slice is tuned, what it reads is phi(W) in the columns of that slice, on
whichever path it goes (its fused kernel too), and its parameters stay where they are, under their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from subspace_tuning.weights.slices import Fused, Slice

ROLES = ("query", "key", "value")


class InProjection(nn.Linear):
    """The weight (3 d, d) and bias of an attention as a layer. It holds no numbers: they are the attention's."""

    def __init__(self, attention: nn.MultiheadAttention):
        nn.Module.__init__(self)
        self._of = (attention,)  # in a tuple: the attention is no part of it
        self.in_features, self.out_features = attention.embed_dim, 3 * attention.embed_dim

    @property
    def weight(self) -> Any:  # type: ignore[override]
        return self._of[0]._parameters["in_proj_weight"]

    @property
    def bias(self) -> Any:  # type: ignore[override]
        return self._of[0]._parameters["in_proj_bias"]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("weight", "bias"):
            setattr(self._of[0], f"in_proj_{name}", value)
        else:
            super().__setattr__(name, value)


class ReadsSlices:
    """What an attention is while slices of it are tuned."""

    _modules: dict[str, nn.Module]
    _parameters: dict[str, nn.Parameter]

    @property
    def in_proj_weight(self) -> Any:
        return self._now("weight")

    @property
    def in_proj_bias(self) -> Any:
        return self._now("bias")

    def _now(self, name: str) -> Tensor:
        whole = self._parameters[f"in_proj_{name}"]
        tuned: dict[str, Any] = {role: self._modules[role] for role in ROLES if role in self._modules}
        tuned = {role: layer for role, layer in tuned.items() if isinstance(layer, BaseTunerLayer)}
        if whole is None or not tuned:
            return whole
        parts = zip(ROLES, whole.chunk(3), strict=True)
        return torch.cat([getattr(tuned[role], name) if role in tuned else own for role, own in parts])


@cache
def _reading(kind: Any) -> Any:
    return type(kind.__name__, (ReadsSlices, kind), {"__module__": kind.__module__, "plain": kind})


def projections(attention: nn.Module) -> dict[str, Slice]:
    """Queries, keys and values of an attention that keeps one weight for all three; else nothing."""
    if not isinstance(attention, nn.MultiheadAttention) or attention._parameters.get("in_proj_weight") is None:
        return {}
    fused = Fused(1, tuple((role, attention.embed_dim) for role in ROLES))
    return {role: Slice(InProjection(attention), fused, role) for role in ROLES}


def with_projections(model: nn.Module) -> Iterator[tuple[str, Slice]]:
    """By name, the queries, keys and values of all attentions that are not tuned yet."""
    for name, module in model.named_modules():
        for role, own in projections(module).items():
            if role not in module._modules:
                yield f"{name}.{role}".lstrip("."), own


def seat_projections(attention: nn.Module) -> None:
    """Make modules of the queries, keys and values, so that they can be tuned."""
    for role, own in projections(attention).items():
        if role not in attention._modules:
            attention.add_module(role, own)
    kind: Any = type(attention)
    if not issubclass(kind, ReadsSlices):
        attention.__class__ = _reading(kind)


def unseat_projections(model: nn.Module) -> None:
    """Take away again what is not tuned; an attention without any is what it was."""
    for attention in [m for m in model.modules() if isinstance(m, ReadsSlices)]:
        held = attention._modules
        for role in [role for role in ROLES if isinstance(held.get(role), Slice)]:
            del held[role]
        if not any(role in held for role in ROLES):
            attention.__class__ = type(attention).plain  # type: ignore[attr-defined]
