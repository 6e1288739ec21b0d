"""The layers that two checkpoints share, read one at a time as weights W and W*."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from subspace_tuning.algebra import Weight
from subspace_tuning.errors import BadInput
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.named import Named
from subspace_tuning.run.skeleton import skeleton
from subspace_tuning.structure.fused import slices
from subspace_tuning.structure.heads import HEADS
from subspace_tuning.weights import LayerWeight, Unsupported, weight_of
from subspace_tuning.weights.attention import InProjection
from subspace_tuning.weights.experts import Experts, ExpertWeight, experts_of, with_experts
from subspace_tuning.weights.linear import LinearWeight
from subspace_tuning.weights.own_forward import OwnForward
from subspace_tuning.weights.slices import Slice


class Expert(NamedTuple):
    """Where a fused parameter has one of its experts."""

    fused: str  # the parameter's name
    at: int
    turned: bool  # whether it is stored as (e, n, m)


@dataclass(frozen=True)
class Place:
    """A layer: its module's name in the model, and its tensors' names. An expert is a linear layer of its own here."""

    name: str
    layer: nn.Module  # without numbers
    tensors: dict[str, str]  # weight, bias -> name
    expert: Expert | None = None

    @property
    def module(self) -> str:
        """What an adapter's config names."""
        return self.name if self.expert is None else self.expert.fused

    def filled(self, checkpoint: Named) -> nn.Module:
        """The layer with its numbers."""
        layer = copy.deepcopy(self.layer)
        for part, name in self.tensors.items():
            value = checkpoint.read(name, None if self.expert is None else self.expert.at)
            value = value.T if self.expert is not None and self.expert.turned and part == "weight" else value
            setattr(getattr(layer, "host", layer), part, nn.Parameter(value, requires_grad=False))
        return layer

    def of(self, model: nn.Module) -> LayerWeight:
        """The weight in a model."""
        if isinstance(self.layer, Slice):
            return weight_of(slices(model)[self.name])
        if self.expert is None:
            return weight_of(model.get_submodule(self.name))
        keeper, _, own = self.expert.fused.rpartition(".")
        return ExpertWeight(dict(experts_of(keeper, model.get_submodule(keeper)))[own], self.expert.at)

    def read(self, checkpoint: Named) -> Weight:
        layer = self.filled(checkpoint)
        W = weight_of(layer)
        W = LinearWeight(layer) if isinstance(W, OwnForward) else W  # a router, say: what is stored is read, not run
        if W.holds_matrix:
            return Weight(W.dense(), W.own_bias).known_as(self.name)
        assert W.own_bias is not None
        return Weight(W.own_bias.new_zeros(0, W.own_bias.numel()), W.own_bias)

    @property
    def size(self) -> tuple[int, int]:
        W = weight_of(self.layer)
        return W.shape if W.holds_matrix else (0, W.shape[1])


@dataclass
class Places:
    """What two checkpoints share, and what keeps the other layers out."""

    base: Named
    tuned: Named
    places: list[Place] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)  # layer -> the one whose numbers it shares
    missing: dict[str, str] = field(default_factory=dict)  # layer -> what is missing where
    heads: list[str] = field(default_factory=list)  # modules that only the fine-tuned model has
    left_out: list[str] = field(default_factory=list)  # tensors that changed and are of none of the places


def pattern_of(layers: str | None) -> re.Pattern[str] | None:
    """The expression that finds names of layers. Raises BadInput for what is none."""
    try:
        return None if layers is None else re.compile(layers)
    except re.error as error:
        raise BadInput(f"--layers is a regular expression, got {layers!r}: {error}") from error


def shared(base: Checkpoint, tuned: Checkpoint, pattern: str | None = None) -> Places:
    """The layers of both; without a pattern all but embeddings and heads, with one those whose name it finds.

    Slices of a fused weight come in its place where the pattern finds their names and not that of the whole.
    """
    for given in (base, tuned):
        if given.is_adapter:
            raise BadInput(f"{given.name} holds an adapter; a fully fine-tuned model (method=full) is wanted here")
    model = skeleton(tuned)
    ours, theirs = Named(base, model), Named(tuned, model)
    tied = tied_to(model)
    wanted = pattern_of(pattern)
    found = Places(ours, theirs)
    for name, layer in [*with_experts(model), *slices(model).items()]:
        W = _weight(layer)
        if W is None:
            continue
        if name.split(".")[0] in HEADS and f"{name}.weight" in theirs and f"{name}.weight" not in ours:
            found.heads.append(name)
            continue
        if is_part(layer) and (wanted is None or wanted.search(name.rpartition(".")[0])):
            continue
        if not (_by_default(name, layer) if wanted is None else wanted.search(name)):
            continue
        tensors = tensors_of(name, layer)
        tensors = tensors if W.holds_matrix else {"bias": tensors["bias"]}
        first = next(iter(tensors))
        shape = tuple(getattr(getattr(layer, "host", layer), first).shape)
        lost = [f"{one} in {given.name}" for one in tensors.values() for given in (ours, theirs) if one not in given]
        source = tied.get(tensors[first])
        if lost and source is not None:
            found.tied[name] = source.rpartition(".")[0]
        elif lost:
            found.missing[name] = ", ".join(lost)
        elif (sizes := [given.shape(tensors[first]) for given in (ours, theirs)]) != [shape, shape]:
            found.missing[name] = f"sizes differ: {sizes[0]} and {sizes[1]}, expected {shape}"
        else:
            found.places += places_of(name, layer, tensors)
    found.left_out = list(_left_out(found, wanted))
    if not found.places:
        said = f" whose name {pattern!r} finds" if pattern is not None else ""
        raise BadInput(f"{base.name} and {tuned.name} share no layer{said}; are they the same architecture?")
    return found


def tied_to(model: nn.Module) -> dict[str, str]:
    """Names of tensors -> those of the tensors that they share their numbers with."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def tensors_of(name: str, layer: nn.Module) -> dict[str, str]:
    """weight and bias, where a layer has them -> their names in the model."""
    whole = name.rpartition(".")[0] if isinstance(layer, Slice) else name  # whose the numbers are
    between = "." if not isinstance(layer, Slice) or is_part(layer) else ".in_proj_"
    named = {k: f"{whole}{between}{k}" for k in ("weight", "bias")}
    if isinstance(layer, Experts):
        named = {"weight": name, "bias": f"{name}_bias"}
    return {k: own for k, own in named.items() if isinstance(getattr(layer, k, None), Tensor)}


def is_part(layer: nn.Module) -> bool:
    """Whether a layer is a slice of another one, which is a weight by itself."""
    return isinstance(layer, Slice) and not isinstance(layer.host, InProjection)


def places_of(name: str, layer: nn.Module, tensors: dict[str, str]) -> list[Place]:
    """The weights of a layer: one, or those of its experts."""
    if not isinstance(layer, Experts):
        return [Place(name, layer, tensors)]
    one = nn.Linear(*layer.size, bias="bias" in tensors, device="meta")
    return [Place(f"{name}.{i}", one, tensors, Expert(name, i, layer.turned)) for i in range(layer.count)]


def _left_out(found: Places, wanted: re.Pattern[str] | None) -> Iterator[str]:
    """The tensors that are of none of the places, nor of a head, and changed; with a pattern, those that it finds."""
    held = {name for place in found.places for name in place.tensors.values()}
    new = tuple(f"{name}." for name in found.heads)
    for name in found.tuned.names():
        if name in held or name.startswith(new) or (wanted is not None and not wanted.search(name)):
            continue
        if name not in found.base or not torch.equal(found.base.stored(name), found.tuned.stored(name)):
            yield name


def _weight(layer: nn.Module) -> LayerWeight | None:
    """W, where it is what a checkpoint stores."""
    try:
        W = weight_of(layer)
    except Unsupported:
        return None
    return None if isinstance(W, OwnForward) else W


def _by_default(name: str, layer: nn.Module) -> bool:
    return not (isinstance(layer, nn.Embedding) or HEADS & set(name.split(".")))
