"""The layers that an adapter touches, each built around the one weight that it sits on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.method import Method
from subspace_tuning.run.named import Named
from subspace_tuning.run.skeleton import skeleton
from subspace_tuning.structure.fused import slices
from subspace_tuning.theory.places import Place, places_of, tensors_of, tied_to
from subspace_tuning.tuner.adapter import Adapter
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights.experts import Experts, apart, with_experts

NAME = "default"  # that the adapter goes by in the layers built here


@dataclass(frozen=True)
class Seat:
    """A layer of the base, the method on it, and its parameters."""

    place: Place
    base: Named
    method: Method
    values: Mapping[str, Tensor]

    def layer(self) -> SubspaceLayer:
        """The layer with its numbers. Raises BadInput where those of the adapter do not fit it."""
        layer = SubspaceLayer(self.place.filled(self.base))
        layer.path = self.place.name
        with as_bad_input():
            layer.add(NAME, self.method)
        layer.restart(NAME, self.method.unpacked(dict(self.values), layer.constants(NAME), *layer.frozen.shape))
        return layer


def touched(adapter: Adapter, base: Checkpoint) -> dict[str, Seat]:
    """By the names of their modules, in the model's order. Raises BadInput where the adapter is not one of this base.

    A layer that the base has no numbers for, a new head, is left out.
    """
    config = adapter.config
    if not isinstance(config, SubspaceConfig) or not (adapter.seats or adapter.shared):
        raise BadInput(f"{adapter.folder} tunes no layer's weight or bias; prompts and prefixes change none")
    model = skeleton(base, config.task_type)
    adapter = adapter.named_as(model)
    adapter.check(model)
    held, tied = Named(base, model), tied_to(model)
    layers = dict([*with_experts(model), *slices(model).items()])
    held_by, seats = adapter.seated(layers), {}
    for name, layer in layers.items():
        if name not in held_by:
            continue
        tensors = {k: own if own in held else tied.get(own, "") for k, own in tensors_of(name, layer).items()}
        if all(own in held for own in tensors.values()):
            values = held_by[name]
            each = apart(values, layer.count) if isinstance(layer, Experts) else [values]
            for place, own in zip(places_of(name, layer, tensors), each, strict=True):
                seats[place.name] = Seat(place, held, adapter.resolved(name), own)
    return seats
