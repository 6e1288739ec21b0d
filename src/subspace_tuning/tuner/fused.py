"""Weights that serve several roles at once: which columns of W in R^{n x m} (rows of ``Linear.weight``) are whose.

How many columns a role has follows from the sizes of its neighbours; how they are laid out is said by the code of each
architecture alone, so that it stands here as a table. What is not in it is not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.tuner.roles import GATE, GATE_UP, KEY, OUTPUT, QKV, QUERY, UP, VALUE
from subspace_tuning.tuner.structure import BlockWeight

STACKED, PER_HEAD, PER_KEY, OF_CODEGEN = "stacked", "per head", "per key head", "codegen"
QKV_OF = {
    **dict.fromkeys(("gpt2", "openai-gpt", "imagegpt", "phi3", "modernbert", "modernbert-decoder", "mpt"), STACKED),
    **dict.fromkeys(("qwen2_vl", "qwen2_vl_vision", "qwen2_5_vl_vision", "blip_2_vision_model"), STACKED),
    **dict.fromkeys(("bloom", "gpt_neox", "gpt_neox_japanese", "persimmon", "deberta"), PER_HEAD),
    "codegen": OF_CODEGEN,
}
GATES_OF = dict.fromkeys(("phi3", "glm", "glm4", "modernbert", "modernbert-decoder"), STACKED)
CORES_OF_CODEGEN = 4  # the tensor processors that it was trained on


@dataclass(frozen=True)
class Fused:
    """Columns of a fused weight: ``groups`` times a run of roles, each with its number of columns.

    GPT-2: 1 x (query d, key d, value d); GPT-NeoX: heads x (query h, key h, value h).
    """

    groups: int
    run: tuple[tuple[str, int], ...]

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.groups * sum(size for _, size in self.run)

    def columns(self, role: str) -> Tensor:
        """The places among the m columns that belong to a role, in their order."""
        runs = torch.arange(self.width).view(self.groups, -1)
        start = 0
        found = []
        for own, size in self.run:
            found += [runs[:, start : start + size]] if own == role else []
            start += size
        if not found:
            raise ValueError(f"no column is called {role!r}; there are {', '.join(own for own, _ in self.run)}")
        return torch.cat(found, dim=1).flatten()


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
