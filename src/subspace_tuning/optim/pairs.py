"""The pairs of factors A, B that the equations of a model's methods multiply."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from subspace_tuning.tuner.layer import SubspaceLayer


@dataclass(frozen=True, eq=False)
class Pair:
    """A (..., n, r) and B (..., r, m) of one layer, both trained; leading dimensions count the weights that it holds.

    What is trained may be added to a start: ``whole`` are the factors as the equation multiplies them.
    """

    A: nn.Parameter
    B: nn.Parameter
    scale: float  # s of s A B; 1 where the equation names none
    started: partial[tuple[Tensor | None, Tensor | None]]  # A0 and B0

    def whole(self) -> tuple[Tensor, Tensor]:
        """A0 + A (..., n, r) and B0 + B (..., r, m), in single precision or better."""
        A, B = (_added(start, p) for start, p in zip(self.started(), (self.A, self.B), strict=True))
        return A, B

    def gradients(self) -> tuple[Tensor, Tensor] | None:
        """Of A (..., n, r) and B (..., r, m), in single precision or better; None where either has none."""
        if self.A.grad is None or self.B.grad is None:
            return None
        return _wide(self.A.grad), _wide(self.B.grad)


def pairs_of(model: nn.Module) -> list[Pair]:
    """The pairs of all layers that are trained now; one that layers share counts once."""
    layers = [layer for layer in model.modules() if isinstance(layer, SubspaceLayer)]
    every = (pair for layer in layers for adapter in layer.methods for pair in _pairs(layer, adapter))
    return list({(id(pair.A), id(pair.B)): pair for pair in every}.values())


def _pairs(layer: SubspaceLayer, adapter: str) -> list[Pair]:
    method, held = layer.methods[adapter], layer.values(adapter)
    found = []
    for A, B, scale in method.factor_pairs():
        if A not in held or B not in held or not (held[A].requires_grad and held[B].requires_grad):
            continue
        found.append(Pair(held[A], held[B], scale, partial(_starts, layer, adapter, A, B)))  # type: ignore[arg-type]
    return found


def _starts(layer: SubspaceLayer, adapter: str, A: str, B: str) -> tuple[Tensor | None, Tensor | None]:
    held = layer.values(adapter)
    return held.get(f"{A}0"), held.get(f"{B}0")


def _wide(t: Tensor) -> Tensor:
    return t.detach().to(torch.promote_types(t.dtype, torch.float32))


def _added(start: Tensor | None, p: Tensor) -> Tensor:
    return _wide(p) if start is None else _wide(start) + _wide(p)
