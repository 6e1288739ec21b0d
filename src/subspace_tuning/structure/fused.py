"""Weights that serve several roles at once: which columns of W in R^{n x m} (rows of ``Linear.weight``) are whose.

How many columns a role has follows from the sizes of its neighbours; how they are laid out is said by the code of each
architecture alone, so that it stands here as a table. What is not in it is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from subspace_tuning.structure.blocks import BlockWeight, outer_modules, read
from subspace_tuning.structure.roles import GATE, GATE_UP, KEY, OUTPUT, QKV, QUERY, UP, VALUE
from subspace_tuning.weights.attention import with_projections
from subspace_tuning.weights.slices import Fused, Slice

STACKED, PER_HEAD, PER_KEY, OF_CODEGEN = "stacked", "per head", "per key head", "codegen"
QKV_OF = {
    **dict.fromkeys(("gpt2", "openai-gpt", "imagegpt", "phi3", "modernbert", "modernbert-decoder", "mpt"), STACKED),
    **dict.fromkeys(("qwen2_vl", "qwen2_vl_vision", "qwen2_5_vl_vision", "blip_2_vision_model"), STACKED),
    **dict.fromkeys(("bloom", "gpt_neox", "gpt_neox_japanese", "persimmon", "deberta"), PER_HEAD),
    "codegen": OF_CODEGEN,
}
GATES_OF = dict.fromkeys(("phi3", "glm", "glm4", "modernbert", "modernbert-decoder"), STACKED)
CORES_OF_CODEGEN = 4  # the tensor processors that it was trained on


def fused(model: nn.Module, weight: BlockWeight, neighbours: list[BlockWeight]) -> Fused | None:
    """The layout of a weight that serves several roles; None where it serves one, or its layout is not known.

    neighbours: the weights of its model, ``structure.read(model)``.
    """
    config = _config(model, weight.name)
    kind = getattr(config, "model_type", "")
    if weight.role == GATE_UP:
        owner = model.get_submodule(weight.name.rpartition(".")[0]) if not weight.is_layer else None
        stacked = getattr(owner, "is_concatenated", None) if owner is not None else GATES_OF.get(kind)
        if stacked is None:
            return None
        half = weight.m // 2
        return Fused(1, ((GATE, half), (UP, half))) if stacked else Fused(half, ((GATE, 1), (UP, 1)))
    if weight.role != QKV:
        return None
    own = next((w for w in neighbours if w.role == OUTPUT and w.block == weight.block and w.part == weight.part), None)
    if own is None:
        return None
    return _qkv(config, kind, own.n, (weight.m - own.n) // 2)


def apart(model: nn.Module, weight: BlockWeight, neighbours: list[BlockWeight]) -> list[BlockWeight]:
    """The weights of the roles that a layer serves, called after them; none where it serves one, or it is not known."""
    layout = fused(model, weight, neighbours) if weight.is_layer else None
    if layout is None or layout.width != weight.m:
        return []
    named = [(f"{weight.name}.{role}", role, layout.groups * size) for role, size in layout.run]
    return [replace(weight, name=name, role=role, m=m) for name, role, m in named]


def fused_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Fused]]:
    """The layers of a model whose columns are known to serve several roles, by name, as they were before tuning."""
    weights, modules = read(model), dict(outer_modules(model))
    for weight in weights:
        if apart(model, weight, weights) and (layout := fused(model, weight, weights)) is not None:
            yield weight.name, modules[weight.name], layout


def slices(model: nn.Module) -> dict[str, Slice]:
    """By name, all weights of one role that are columns of a fused one."""
    of_layers = {
        f"{name}.{role}": Slice(host, layout, role)
        for name, host, layout in fused_layers(model)
        for role, _ in layout.run
    }
    return of_layers | dict(with_projections(model))


def _qkv(config: Any, kind: str, q: int, kv: int) -> Fused | None:
    """The layout of q columns for queries, and kv each for keys and values."""
    heads: int = getattr(config, "num_attention_heads", 1)
    layout = QKV_OF.get(kind)
    if kind == "gpt_bigcode":
        layout = STACKED if config.multi_query else PER_HEAD
    if kind == "falcon":
        layout = PER_KEY if config.new_decoder_architecture else STACKED if config.multi_query else PER_HEAD
    if layout == STACKED:
        return Fused(1, ((QUERY, q), (KEY, kv), (VALUE, kv)))
    if layout == PER_HEAD:
        return Fused(heads, ((QUERY, q // heads), (KEY, kv // heads), (VALUE, kv // heads)))
    if layout == PER_KEY:
        groups = kv // (q // heads)
        return Fused(groups, ((QUERY, q // groups), (KEY, kv // groups), (VALUE, kv // groups)))
    if layout == OF_CODEGEN:
        groups = CORES_OF_CODEGEN
        return Fused(groups, ((QUERY, q // groups), (VALUE, kv // groups), (KEY, kv // groups)))
    return None


def _config(model: nn.Module, name: str) -> Any:
    """The config of the innermost model that a weight is in."""
    found = getattr(model, "config", None)
    module: Any = model
    for part in name.split("."):
        module = getattr(module, part, None)
        own = getattr(module, "config", None)
        found = own if hasattr(own, "model_type") else found
    return found
