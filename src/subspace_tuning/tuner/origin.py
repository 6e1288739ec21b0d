"""What the frozen weights were, in a few numbers, so that loading on others does not pass in silence.

Singular vectors of a weight that was rounded, quantised or trained on are others, however little the weight changed:
those of near singular values turn into each other. What was trained between them then means something else. A config
carries a sketch of the tensors C that methods made of W, u_i^T C v_i with u_i, v_i random and always the same, summed
over the layers; its distance from that of another model is about the relative error of these tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from zlib import crc32

import torch
from torch import Tensor, nn

from subspace_tuning.tuner.saved import named_layers

SIZE = 32  # numbers in a sketch
ROUNDING = 0.01  # a relative error of the tensors up to which they are the same but for rounding


@torch.no_grad()
def sketch(model: nn.Module, adapter: str) -> list[float] | None:
    """Of what an adapter's methods made of the frozen weights; None where that is nothing, or some are away."""
    if any(adapter in layer.unstarted for _, layer in named_layers(model, adapter)):
        return None
    parts = [_of(key, C) for key, C in _made(model, adapter)]
    return (torch.stack(parts).sum(0) / len(parts) ** 0.5).tolist() if parts else None


def compare(model: nn.Module, adapter: str, then: list[float] | None) -> None:
    """Warn where the weights are not those that the adapter was trained on."""
    now = None if then is None else sketch(model, adapter)
    if then is None or now is None or len(then) != len(now):
        return
    off = (torch.tensor(now) - torch.tensor(then)).square().mean().sqrt().item()
    if not off < ROUNDING:
        warnings.warn(
            f"the adapter {adapter!r} was trained on a base model with other numbers: what its methods make of the "
            f"weights, singular vectors and the like, is off by about {off:.0%}, and so is what the adapter does; load "
            "the base model in the precision of training, and merge the adapter there before it is rounded",
            stacklevel=2,
        )


def _made(model: nn.Module, adapter: str) -> Iterable[tuple[str, Tensor]]:
    for path, layer in named_layers(model, adapter):
        for name, C in sorted(layer.constants(adapter).items()):
            if C.dim() in (1, 2) and C.is_floating_point() and not C.is_meta and C.numel():
                yield f"{path.removeprefix('base_model.model.')}.{name}", C if C.dim() == 2 else C.unsqueeze(1)


def _of(key: str, C: Tensor) -> Tensor:
    """u_i^T C v_i / ||C||_F, near one in size, for C (n, k)."""
    draw = torch.Generator().manual_seed(crc32(key.encode()))
    u, v = (torch.randn(SIZE, size, generator=draw).to(C.device) for size in C.shape)
    C = C.float()
    norm = C.norm()
    return (torch.linalg.vecdot(u @ C, v) / norm).cpu() if norm > 0 else torch.zeros(SIZE)
