"""Changes of the queries, keys and values of a fused weight as one LoRA on the whole: [A_1 A_2] and a B of blocks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from subspace_tuning.convert.lora import Fitted
from subspace_tuning.weights.slices import Slice


def whole(
    layers: Mapping[str, nn.Module], fits: Mapping[str, Fitted]
) -> tuple[dict[str, nn.Module], dict[str, Fitted]]:
    """Layers and their factors by name, fused layers in place of their slices."""
    found: dict[str, nn.Module] = {}
    slices: dict[str, list[tuple[Slice, Fitted]]] = {}
    for name, layer in layers.items():
        if isinstance(layer, Slice):
            slices.setdefault(name.rpartition(".")[0], []).append((layer, fits[name]))
        else:
            found[name] = layer
    for name, parts in slices.items():
        found[name] = parts[0][0].host
    return found, {**fits, **{name: _joined(parts) for name, parts in slices.items()}}


def _joined(parts: list[tuple[Slice, Fitted]]) -> Fitted:
    """Factors of dW (n, m) whose columns are those of the slices, and else zero."""
    fitted = [fit for _, fit in parts]
    A = torch.cat([fit.A for fit in fitted], 1)
    B = torch.cat([_among(layer, fit.B) for layer, fit in parts])
    return Fitted(A, B, all(f.exact for f in fitted), max(f.error for f in fitted), all(f.rounding for f in fitted))


def _among(layer: Slice, B: Tensor) -> Tensor:
    return layer.fused.with_parts(B.new_zeros(len(B), layer.fused.width), {layer.role: B})
