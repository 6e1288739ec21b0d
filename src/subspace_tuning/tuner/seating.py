"""Parameters that are layers while they are tuned: experts, slices of a fused weight, projections of an attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from subspace_tuning.tuner.fused import fused_layers
from subspace_tuning.weights import Unsupported
from subspace_tuning.weights.attention import projections, seat_projections, unseat_projections
from subspace_tuning.weights.experts import coded_experts, experts_of, seat, unseat
from subspace_tuning.weights.slices import seat_slices, unseat_slices


def seat_named(model: nn.Module, is_named: Callable[[str], Any]) -> None:
    """Make layers of what is named, so that it is found among the modules."""
    for name, host, layout in list(fused_layers(model)):
        if any(is_named(f"{name}.{role}") for role, _ in layout.run) and not is_named(name):
            if model.get_submodule(name) is not host:
                raise Unsupported(f"{name} is tuned as a whole by another adapter: name the whole here too")
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


def unseat_idle(model: nn.Module) -> None:
    """Make parameters again of what is not tuned."""
    unseat(model)
    unseat_slices(model)
    unseat_projections(model)
