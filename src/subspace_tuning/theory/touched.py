"""The layers that an adapter touches, each built around the one weight that it sits on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.method import Method
from subspace_tuning.run.skeleton import called, skeleton
from subspace_tuning.theory.places import Place, tied_to
from subspace_tuning.tuner.adapter import Adapter
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.layer import SubspaceLayer

NAME = "default"  # that the adapter goes by in the layers built here


@dataclass(frozen=True)
class Seat:
    """A layer of the base, the method on it, and its parameters."""

    place: Place
    method: Method
    values: Mapping[str, Tensor]

    def layer(self, base: Checkpoint) -> SubspaceLayer:
        """The layer with its numbers. Raises BadInput where those of the adapter do not fit it."""
        layer = SubspaceLayer(self.place.filled(base, self.place.base))
        with as_bad_input():
            layer.add(NAME, self.method)
        layer.restart(NAME, self.method.unpacked(dict(self.values), layer.constants(NAME), *layer.frozen.shape))
        return layer


def touched(adapter: Adapter, base: Checkpoint) -> dict[str, Seat]:
    """By the names of their modules, in the model's order. Raises BadInput where the adapter is not one of this base.

    A layer that the base has no numbers for, a new head, is left out.
    """
    config = adapter.config
    if not isinstance(config, SubspaceConfig) or not adapter.seats:
        raise BadInput(f"{adapter.folder} tunes no layer's weight or bias; prompts and prefixes change none")
    model = skeleton(base, config.task_type)
    adapter = adapter.named_as(model)
    adapter.check(model)
    ours, tied = called(base, model), tied_to(model)
    seats = {}
    for name, layer in model.named_modules():
        if name not in adapter.seats:
            continue
        full = {k: f"{name}.{k}" for k in ("weight", "bias") if isinstance(getattr(layer, k, None), Tensor)}
        keys = {k: ours.get(key) or ours.get(tied.get(key, ""), "") for k, key in full.items()}
        if all(keys.values()):
            seats[name] = Seat(Place(name, layer, keys, {}), adapter.resolved(name), adapter.seats[name])
    return seats
