"""Which modules a method takes when none are named: the paper's choice, on the blocks of any architecture.

key_value_ff  key, value and first feed-forward weight of each block (SSL, SSB, (IA)3); a mixer's way in (Mamba)
query_value   query and value weight of each attention (VeRA)
all           all weights of each block: query, key, value, attention output, feed-forward, mixers
biases        every layer outside the head that has a bias (BitFit)
sublayer_outputs  the last weights of attention and of feed-forward (Houlsby adapters)
ff_output     the last weight of the feed-forward (Pfeiffer adapters)
key           the key weight of each self-attention, where methods that sit on a block have their parameters (MAM)

Of a fused weight, the slices of the roles that are wanted; all of it where they all are, or whose columns are whose is
not known.

Blocks and roles are read off the model (structure/), fused experts among them. A model of several towers is
taken by its language tower, where it has one. What sits on outputs leaves experts out, which have none of their own.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Collection
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from subspace_tuning.method import members
from subspace_tuning.structure.blocks import BlockWeight, beside, language_tower, outer_modules, read
from subspace_tuning.structure.fused import apart
from subspace_tuning.structure.heads import heads, is_in
from subspace_tuning.structure.roles import (
    ATTENTION,
    CROSS,
    DOWN,
    EXPERTS,
    FEED_FORWARD,
    IN,
    KEY,
    OTHER,
    OUT,
    OUTPUT,
    QUERY,
    STATE_SPACE,
    UP,
    VALUE,
    within,
)
from subspace_tuning.tuner.read import check_read, only_read
from subspace_tuning.weights import Unsupported, has_bias, is_linear, weight_of
from subspace_tuning.weights.experts import Experts, coded_experts

POOLERS = {"pooler"}
BIASES = "biases"
ON_OUTPUTS = {"sublayer_outputs", "ff_output", "key"}  # where methods go that sit on outputs or blocks
SHOWN = 24


def _attends(w: BlockWeight, *roles: str) -> bool:
    return w.part in (ATTENTION, CROSS) and bool(set(w.role.split("+")) & set(roles))


def _widens(w: BlockWeight) -> bool:
    return w.part in (FEED_FORWARD, EXPERTS) and UP in w.role.split("+")


def _mixes(w: BlockWeight, *roles: str) -> bool:
    return w.part == STATE_SPACE and w.role in roles


KINDS: dict[str, Callable[[BlockWeight], bool]] = {
    "key_value_ff": lambda w: _attends(w, KEY, VALUE) or _widens(w) or _mixes(w, IN),
    "query_value": lambda w: _attends(w, QUERY, VALUE) or _mixes(w, IN),
    "all": lambda w: w.part not in (OTHER, STATE_SPACE) or _mixes(w, IN, "x", OUT),
    "sublayer_outputs": lambda w: w.role in (OUTPUT, DOWN, OUT),
    "ff_output": lambda w: w.role in (DOWN, OUT),
    "key": lambda w: w.part == ATTENTION and w.role == KEY,
}


def default_targets(places: str, model: nn.Module, config: PeftConfig | None = None) -> set[str]:
    """Module names (suffixes, as ``target_modules`` takes them) for a kind of place in a model.

    Raises ``ValueError`` with what the blocks hold where there is no such place. A config says which modules are
    trained whole, and which layers are wanted.
    """
    tower = language_tower(model)
    modules = _reached({name: module for name, module in outer_modules(model) if within(name, tower)}, places, config)
    if places == BIASES:
        return _of_layers(with_bias(model, modules, getattr(config, "modules_to_save", None) or ()), config)
    weights = [w for w in read(model) if within(w.name, tower)]
    wanted = [own for w in weights if KINDS[places](w) for own in taken(model, w, weights, KINDS[places])]
    mapped = _maps_weights(places, config)
    layers = {w.name: modules.get(w.name) or modules.get(w.name.rpartition(".")[0]) for w in wanted}
    chosen = {name for name, layer in layers.items() if _can_sit(layer, mapped)}
    if not chosen:
        raise ValueError(_nothing(places, model, weights, modules))
    left = {w.short: w.size for w in wanted if w.name not in chosen}
    _tell_left(left | (_coded(modules) if places not in ON_OUTPUTS else {}), model, config)
    return _of_layers(_short(chosen, wanted, {name for name, _ in outer_modules(model)}), config)


def taken(
    model: nn.Module, w: BlockWeight, weights: list[BlockWeight], holds: Callable[[BlockWeight], bool]
) -> list[BlockWeight]:
    """A weight, or the slices of it that are wanted, where these are not all."""
    every = apart(model, w, weights)
    wanted = [own for own in every if holds(own)]
    return wanted if 0 < len(wanted) < len(every) else [w]


def all_linear(model: nn.Module, config: PeftConfig | None = None) -> set[str]:
    """Every linear layer and fused weight of experts of a model but its head; poolers come before it and are taken."""
    head = {name for name in heads(model) if not POOLERS & set(name.split("."))}
    head |= set(getattr(config, "modules_to_save", None) or ())
    modules = {name: module for name, module in outer_modules(model) if not is_in(name, head)}
    experts = {name: fused for name, fused in modules.items() if isinstance(fused, Experts)}
    if not _maps_weights("all", config):
        _tell_left({name: f"{e.count} x {e.size[0]} x {e.size[1]}" for name, e in experts.items()}, model, config)
        experts = {}
    linear = {name: module for name, module in modules.items() if is_linear(module)}
    odd = {name: type(module).__name__ for name, module in linear.items() if not _can_sit(module, True)}
    _tell_left(odd | _coded(modules), model, config)
    return set(linear).difference(odd) | set(experts)


def sits(model: nn.Module, places: str) -> set[str]:
    """Names of the layers that methods can sit on whose default modules are of this kind."""
    mapped = _maps_weights(places, None)
    return {name for name, layer in _reached(dict(outer_modules(model)), places).items() if _can_sit(layer, mapped)}


def _reached(modules: dict[str, nn.Module], places: str, config: Any = None) -> dict[str, nn.Module]:
    """The modules without those whose weights are only read, where phi(W) does not say all of a method."""
    if _is_said_by_phi(places, config):
        return modules
    unread = {f"{name}.{child}" for name, module in modules.items() for child in only_read(module)}
    return {name: module for name, module in modules.items() if name not in unread}


def _is_said_by_phi(places: str, config: Any) -> bool:
    if config is None:
        return places not in ON_OUTPUTS
    try:
        check_read(config.resolved())
    except Unsupported:
        return False
    return True


def _maps_weights(places: str, config: Any) -> bool:
    """Whether a method sits on weights or biases alone; by its places where no config says which one it is."""
    if config is None:
        return places not in ON_OUTPUTS
    return all(part.sits_on in ("weight", "bias") for part in members(config.resolved()))


def _tell_left(left: dict[str, str], model: nn.Module, config: Any) -> None:
    """Warn of weights, name -> size, that the method has no seat on."""
    if left:
        told = ", ".join(f"{name} {size}" for name, size in sorted(left.items())[:SHOWN])
        who = "the method" if config is None else config.resolved().name
        warnings.warn(f"left out: {told} of {type(model).__name__}, where {who} finds no seat", stacklevel=3)


def _coded(modules: dict[str, nn.Module]) -> dict[str, str]:
    """Experts that are kept in codes, and in which."""
    return {f"{name}.{own}": kept for name, module in modules.items() for own, kept in coded_experts(name, module)}


def _can_sit(layer: nn.Module | None, mapped: bool) -> bool:
    if isinstance(layer, Experts) and not mapped:
        return False
    try:
        if layer is None:
            return False
        W = weight_of(layer)
        W.check()
        return W.holds_matrix
    except Unsupported:
        return False


def _short(chosen: set[str], weights: list[BlockWeight], every: set[str]) -> set[str]:
    """The names below their blocks, where these mean no other module; else the whole names."""
    below: dict[str, set[str]] = {}
    for w in weights:
        if w.name in chosen:
            below.setdefault(w.short, set()).add(w.name)
    found: set[str] = set()
    for short, names in below.items():
        meant = {name for name in every if name == short or name.endswith(f".{short}")}
        found |= {short} if meant <= chosen else names
    return found


def _of_layers(names: set[str], config: PeftConfig | None) -> set[str]:
    """What a config wants of whole names: PEFT asks suffixes for their layer and takes whole names as they are."""
    if getattr(config, "layers_to_transform", None) is None:
        return names
    probe: Any = copy.copy(config)
    found = set()
    for name in names:
        probe.target_modules = {name.rpartition(".")[2]}
        if not re.search(r"\.\d+\.", name) or check_target_module_exists(probe, name):
            found.add(name)
    return found


def _nothing(places: str, model: nn.Module, weights: list[BlockWeight], modules: dict[str, nn.Module]) -> str:
    """Why a model has no place of a kind, what its blocks hold, and what could be named instead."""
    kind = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    rest = [w for w in beside(model, weights) if w.name in modules or not w.is_layer]
    held = [f"{w.short} {w.size} ({w.role or w.part})" for w in weights]
    held += [f"{w.short} {w.size} ({'role unknown' if w.is_layer else 'a parameter of no layer'})" for w in rest]
    short = {w.name: w.short for w in weights} | {w.name: w.short for w in rest}
    layers = [own for name, own in short.items() if _can_sit(modules.get(name), places not in ON_OUTPUTS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everywhere = all_linear(model)
    layers = layers or sorted(everywhere) or [name for name, module in modules.items() if is_linear(module)]
    told = f"its blocks hold {', '.join(list(dict.fromkeys(held))[:SHOWN])}" if held else "it has no repeated blocks"
    names = ", ".join(f"'{name}'" for name in list(dict.fromkeys(layers))[:SHOWN])
    return (
        f"no default modules of the kind {places} are found in {kind}: {told}; "
        f"name some with target_modules=[{names}]{' or target_modules=' + repr('all-linear') if everywhere else ''}"
    )


def with_bias(model: nn.Module, modules: dict[str, nn.Module], kept: Collection[str] = ()) -> set[str]:
    """Layers outside the head whose bias a method can be added to."""
    without = heads(model)
    names = set()
    for name, layer in modules.items():
        if is_in(name, without) or set(kept) & set(name.split(".")) or not has_bias(layer):
            continue
        try:
            weight_of(layer)
        except Unsupported:
            continue
        names.add(name)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no bias outside its head: a method on biases finds nothing to train"
        )
    return names
