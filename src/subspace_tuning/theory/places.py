"""The layers that two checkpoints share, read one at a time as weights W and W*."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from subspace_tuning.algebra import Weight
from subspace_tuning.errors import BadInput
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.skeleton import called, skeleton
from subspace_tuning.tuner.heads import HEADS
from subspace_tuning.weights import LayerWeight, Unsupported, weight_of


@dataclass(frozen=True)
class Place:
    """A layer: its module's name in the fine-tuned model, and its tensors' names in both checkpoints."""

    name: str
    layer: nn.Module  # without numbers
    base: dict[str, str]  # weight, bias -> key
    tuned: dict[str, str]

    def filled(self, checkpoint: Checkpoint, keys: dict[str, str]) -> nn.Module:
        """The layer with its numbers."""
        layer = copy.deepcopy(self.layer)
        for name, key in keys.items():
            setattr(layer, name, nn.Parameter(checkpoint.read(key), requires_grad=False))
        return layer

    def read(self, checkpoint: Checkpoint, keys: dict[str, str]) -> Weight:
        W = weight_of(self.filled(checkpoint, keys))
        if W.holds_matrix:
            return Weight(W.dense(), W.own_bias)
        assert W.own_bias is not None
        return Weight(W.own_bias.new_zeros(0, W.own_bias.numel()), W.own_bias)

    @property
    def size(self) -> tuple[int, int]:
        W = weight_of(self.layer)
        return W.shape if W.holds_matrix else (0, W.shape[1])


@dataclass
class Places:
    """What two checkpoints share, and what keeps the other layers out."""

    places: list[Place] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)  # layer -> the one whose numbers it shares
    missing: dict[str, str] = field(default_factory=dict)  # layer -> what is missing where
    heads: list[str] = field(default_factory=list)  # modules that only the fine-tuned model has


def pattern_of(layers: str | None) -> re.Pattern[str] | None:
    """The expression that finds names of layers. Raises BadInput for what is none."""
    try:
        return None if layers is None else re.compile(layers)
    except re.error as error:
        raise BadInput(f"--layers is a regular expression, got {layers!r}: {error}") from error


def shared(base: Checkpoint, tuned: Checkpoint, pattern: str | None = None) -> Places:
    """The layers of both; without a pattern all but embeddings and heads, with one those whose name it finds."""
    for given in (base, tuned):
        if given.is_adapter:
            raise BadInput(f"{given.name} holds an adapter; a fully fine-tuned model (method=full) is wanted here")
    model = skeleton(tuned)
    ours, theirs = called(base, model), called(tuned, model)
    tied = tied_to(model)
    wanted = pattern_of(pattern)
    found = Places()
    for name, layer in model.named_modules():
        W = _weight(layer)
        if W is None:
            continue
        if name.split(".")[0] in HEADS and f"{name}.weight" in theirs and f"{name}.weight" not in ours:
            found.heads.append(name)
            continue
        if not (_by_default(name, layer) if wanted is None else wanted.search(name)):
            continue
        names = [k for k in ("weight", "bias") if isinstance(getattr(layer, k, None), Tensor)]
        names = names if W.holds_matrix else ["bias"]
        keys = {k: (ours.get(f"{name}.{k}", ""), theirs.get(f"{name}.{k}", "")) for k in names}
        shape = tuple(getattr(layer, names[0]).shape)
        lost = [
            f"{name}.{k} in {where}" for k, pair in keys.items() for where, key in _sides(base, tuned, pair) if not key
        ]
        source = tied.get(f"{name}.{names[0]}")
        if lost and source is not None:
            found.tied[name] = source.rpartition(".")[0]
        elif lost:
            found.missing[name] = ", ".join(lost)
        elif any(c.shape(k) != shape for c, k in zip((base, tuned), keys[names[0]], strict=True)):
            sizes = [tuple(c.shape(k)) for c, k in zip((base, tuned), keys[names[0]], strict=True)]
            found.missing[name] = f"sizes differ: {sizes[0]} and {sizes[1]}, expected {shape}"
        else:
            first, second = ({k: pair[i] for k, pair in keys.items()} for i in (0, 1))
            found.places.append(Place(name, layer, first, second))
    if not found.places:
        said = f" whose name {pattern!r} finds" if pattern is not None else ""
        raise BadInput(f"{base.name} and {tuned.name} share no layer{said}; are they the same architecture?")
    return found


def tied_to(model: nn.Module) -> dict[str, str]:
    """Names of tensors -> those of the tensors that they share their numbers with."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def _sides(base: Checkpoint, tuned: Checkpoint, pair: tuple[str, str]) -> Iterator[tuple[str, str]]:
    return zip((base.name, tuned.name), pair, strict=True)


def _weight(layer: nn.Module) -> LayerWeight | None:
    try:
        return weight_of(layer)
    except Unsupported:
        return None


def _by_default(name: str, layer: nn.Module) -> bool:
    return not (isinstance(layer, nn.Embedding) or HEADS & set(name.split(".")))
