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
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.layer import SubspaceLayer

NAME = "default"  # that the adapter goes by in the layers built here
GROUPS = ("subspace_params", "subspace_stored")


@dataclass(frozen=True)
class Seat:
    """A layer of the base, the method on it, and where its parameters stand in the adapter."""

    place: Place
    method: Method
    keys: dict[str, str]  # parameter -> key

    def layer(self, base: Checkpoint, adapter: Checkpoint) -> SubspaceLayer:
        """The layer with its numbers. Raises BadInput where those of the adapter do not fit it."""
        layer = SubspaceLayer(self.place.filled(base, self.place.base))
        with as_bad_input():
            layer.add(NAME, self.method)
        values = {k: adapter.stored(key) for k, key in self.keys.items()}
        values = self.method.unpacked(values, *layer.frozen.shape)
        started = {k: v for name in GROUPS if NAME in (group := getattr(layer, name)) for k, v in group[NAME].items()}
        wanted, given = _sizes(started), _sizes(values)
        if wanted != given:
            raise BadInput(f"the adapter does not fit this model: {self.place.name} takes {wanted}, got {given}")
        layer.restart(NAME, values)
        return layer


def touched(adapter: Checkpoint, base: Checkpoint) -> dict[str, Seat]:
    """By the names of their modules, in the model's order. Raises BadInput where the adapter is not one of this base.

    A layer that the base has no numbers for, a new head, is left out.
    """
    held: dict[str, dict[str, str]] = {}
    for key in adapter.keys():  # noqa: SIM118
        *path, group, parameter = ["", "", *key.removeprefix("base_model.model.").split(".")]
        if group in GROUPS:
            held.setdefault(".".join(path[2:]), {})[parameter] = key
    if not held:
        raise BadInput(f"{adapter.name} tunes no layer's weight or bias; prompts and prefixes change none")
    with as_bad_input((ValueError, TypeError, OSError)):
        config = SubspaceConfig.from_pretrained(str(adapter.folder))
    model = skeleton(base, config.task_type)
    ours, tied = called(base, model), tied_to(model)
    layers = {name: layer for name, layer in model.named_modules() if name in held}
    if lost := sorted(set(held) - set(layers)):
        raise BadInput(f"the adapter does not fit this model: {base.name} has no module {lost[0]!r}")
    seats = {}
    for name, layer in layers.items():
        full = {k: f"{name}.{k}" for k in ("weight", "bias") if isinstance(getattr(layer, k, None), Tensor)}
        keys = {k: ours.get(key) or ours.get(tied.get(key, ""), "") for k, key in full.items()}
        if all(keys.values()):
            seats[name] = Seat(Place(name, layer, keys, {}), config.resolved(name), held[name])
    return seats


def _sizes(values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(values[k].shape) for k in sorted(values)}
