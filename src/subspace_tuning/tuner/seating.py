"""Parameters that are layers while they are tuned: experts, slices of a fused weight, projections of an attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from subspace_tuning.structure.fused import fused_layers
from subspace_tuning.weights import Unsupported
from subspace_tuning.weights.attention import projections, seat_projections, unseat_projections
from subspace_tuning.weights.experts import coded_experts, experts_of, seat, unseat
from subspace_tuning.weights.slices import move_slices, seat_slices, unseat_slices


class Unwrapped(NamedTuple):
    """A fused layer that stands in the place of the layer that tunes it as a whole, while its slices are seated."""

    parent: nn.Module
    name: str
    host: nn.Module
    outer: nn.Module


def seat_named(model: nn.Module, is_named: Callable[[str], Any]) -> list[Unwrapped]:
    """Make layers of what is named, so that it is found among the modules: PEFT looks for none within tuned layers.

    What is returned is for ``wrap_again``, once the adapter is in place.
    """
    unwrapped = []
    for name, host, layout in list(fused_layers(model)):
        if any(is_named(f"{name}.{role}") for role, _ in layout.run) and not is_named(name):
            if (outer := model.get_submodule(name)) is not host:
                parent, _, child = name.rpartition(".")
                unwrapped.append(Unwrapped(model.get_submodule(parent), child, host, outer))
                setattr(model.get_submodule(parent), child, host)
                move_slices(host, host)
            seat_slices(host, layout)
    for name, module in list(model.named_modules()):
        if any(is_named(f"{name}.{role}".lstrip(".")) for role in projections(module)):
            seat_projections(module)
        for own, fused in list(experts_of(name, module)):
            if is_named(f"{name}.{own}".lstrip(".")):
                seat(module, own, fused)
        for own, kept in coded_experts(name, module):
            if is_named(f"{name}.{own}".lstrip(".")):
                raise Unsupported(
                    f"{name}.{own} is kept as {kept}, and {type(module).__name__} multiplies with these codes by "
                    "itself: exclude it, or load the base model in 16 or 32 bits"
                )
    return unwrapped


def wrap_again(unwrapped: list[Unwrapped]) -> None:
    """Put the layers that tune a whole back, with what is tuned of its slices."""
    for parent, name, host, outer in unwrapped:
        setattr(parent, name, outer)
        move_slices(host, outer)


def unseat_idle(model: nn.Module) -> None:
    """Make parameters again of what is not tuned."""
    unseat(model)
    unseat_slices(model)
    unseat_projections(model)
