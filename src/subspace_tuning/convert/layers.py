"""The tuned layers of a model, what adapters make of them, and how that is written into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn

from subspace_tuning.algebra import NotALinearMap
from subspace_tuning.convert.change import Change, change, exact
from subspace_tuning.convert.probe import Probe, answers
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.tuner.follow import Follower
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.strength import set_strength
from subspace_tuning.weights import LayerWeight, NotTaken, Part, Unsupported

LARGEST = torch.finfo(torch.float32).max


def seats(model: nn.Module) -> dict[str, SubspaceLayer]:
    """The tuned layers of a PEFT model, under their names in the base model."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return {name: module for name, module in inner.named_modules() if isinstance(module, SubspaceLayer)}


def frozen_weights(model: nn.Module) -> dict[str, LayerWeight]:
    """The frozen weights that are tuned, under their names in the base model; experts one by one."""
    return {part.under(name): part.W for name, layer in seats(model).items() for part in layer.parts}


@contextmanager
def without(model: nn.Module) -> Iterator[None]:
    """The model without what adapters do to its layers; heads that were trained along stay."""
    layers = list(seats(model).values())
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def methods_of(model: nn.Module) -> list[str]:
    return sorted({layer.at_work(adapter).describe() for layer in seats(model).values() for adapter in layer.methods})


def check_finite(changes: Mapping[str, Change]) -> None:
    """Raise BadInput where a change is too large to be a weight's: in single precision it would be infinite."""
    for name, made in changes.items():
        if not made.largest() < LARGEST:
            raise BadInput(f"{name}: the change of its weight is not finite in single precision; the adapter is broken")


def dial(model: nn.Module, strength: float, adapter: str) -> None:
    """Let an adapter be at work at a strength. Raises BadInput where it cannot."""
    if strength != 1:
        with as_bad_input():
            set_strength(model, strength, adapter)


@torch.no_grad()
def change_of(name: str, layer: SubspaceLayer, adapters: Sequence[str], part: Part | None = None) -> Change:
    """What these adapters make of a layer. Raises BadInput where it cannot be written into a weight."""
    try:
        made = change(layer, adapters, part)
    except NotALinearMap as error:
        raise BadInput(f"{name}: {error}") from error
    check_finite({name: made})
    return made


def changes_of(model: nn.Module, adapters: Sequence[str]) -> dict[str, Change]:
    """What these adapters make of each weight. Raises BadInput where it cannot be written into one."""
    found = {}
    for path, layer in seats(model).items():
        if held := [a for a in adapters if a in layer.methods]:
            for part in layer.parts:
                name = part.under(path)
                found[name] = change_of(name, layer, held, part)
    if not found:
        raise BadInput("the adapter tunes no layer's weight or bias; prompts and prefixes cannot be exported")
    return found


class Written(NamedTuple):
    """What writing a change into a layer cost."""

    missed: float  # ||[Q(W + dW) - W - dW; Q(b + db) - b - db]||_F; without quantisation, what rounding took
    codes: float | None = None  # the share of a quantised weight's codes that changed


def write(frozen: LayerWeight, change: Change) -> Written:
    """Put a change into a layer, in the layer's own precision or codes."""
    own, missed, codes = frozen.own_bias, 0.0, None
    W = exact(frozen.dense()) + change.dense() if frozen.holds_matrix else None
    b = None if own is None or change.db is None else exact(own) + change.db
    with as_bad_input((Unsupported, NotTaken)):
        if W is not None and frozen.quantised:  # which its own numbers, quantised again, need not be
            codes = frozen.take(W).changed if change.moves_weight else 0.0
        frozen.assign(None if frozen.quantised else W, b)
    if W is not None:
        missed += (exact(frozen.dense()) - W).square().sum().item()
    if own is not None and b is not None:
        missed += (exact(own) - b).square().sum().item()
    return Written(missed**0.5, codes)


@torch.no_grad()
def answers_with(
    model: nn.Module, frozen: Mapping[str, LayerWeight], changes: Mapping[str, Change], inputs: Probe
) -> list[Tensor]:
    """The logits with these changes in the weights of the base model, which are then put back; adapters are off."""
    with written(model, frozen, changes), without(model):
        return answers(model, inputs)


@contextmanager
def written(
    model: nn.Module, frozen: Mapping[str, LayerWeight], changes: Mapping[str, Change]
) -> Iterator[dict[str, Written]]:
    """Within this, changes are in the weights, and what that costs is told by layer; then all is as it was."""
    with ExitStack() as stack:
        for name in changes:
            stack.callback(untie(model, frozen[name].layer))
            stack.callback(_as_it_is(frozen[name]))
        yield {name: write(frozen[name], change) for name, change in changes.items()}


def _as_it_is(W: LayerWeight) -> Callable[[], None]:
    """Puts a layer's weight and bias back as they are now, bit for bit."""
    bias = None if W.own_bias is None else W.own_bias.clone()
    codes = W.part("weight") if W.quantised else None
    held = W.dense().clone() if W.holds_matrix and codes is None else None

    def put_back() -> None:
        if codes is not None:
            W.put("weight", codes)
        W.assign(held, bias)

    return put_back


def untie(model: Any, layer: Any) -> Callable[[], None]:
    """Give a layer a weight of its own where it shares one: the adapter changes it here and nowhere else.

    Where others follow it, it changes for all. Returns what ties it again.
    """
    own, tied = layer._parameters.get("weight"), getattr(model.config, "tie_word_embeddings", None)
    others = [m for m in model.modules() if own is not None and m is not layer and m._parameters.get("weight") is own]
    follow = any(isinstance(hook, Follower) for m in others for hook in m._forward_hooks.values())
    sharing = bool(others) and not follow
    if sharing:
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False

    def tie() -> None:
        if sharing:
            layer.weight, model.config.tie_word_embeddings = own, tied

    return tie
