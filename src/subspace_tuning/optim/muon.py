"""Muon on factors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.optim.factored import FactoredAdamW, Moves
from subspace_tuning.optim.pairs import Pair


class Muon(FactoredAdamW):
    """Each factor moves along the orthogonal part of its momentum, 0.2 sqrt(max(n, r)) U V^T for U S V^T.

    The momentum is Nesterov's; the size is that of AdamW's steps, so that its learning rates fit.
    The orthogonal part is exact, because factors are thin; torch.optim.Muon, for whole matrices, iterates to it.
    Source: arXiv:2502.16982.
    """

    momentum = 0.95

    def moves(self, pair: Pair, gradients: Moves, state: dict[str, Any], group: dict[str, Any]) -> Moves:
        of_A, of_B = (self._move_of(name, g, state) for name, g in zip("AB", gradients, strict=True))
        return of_A, of_B

    def _move_of(self, name: str, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        held: Tensor = state.get(name, torch.zeros_like(gradient)).lerp(gradient, 1 - self.momentum).contiguous()
        state[name] = held
        return 0.2 * math.sqrt(max(gradient.shape[-2:])) * orthogonal(gradient.lerp(held, self.momentum))


def orthogonal(G: Tensor) -> Tensor:
    """U V^T of G = U S V^T (..., n, r), without the directions in which G is zero."""
    U, S, Vt = torch.linalg.svd(G, full_matrices=False)
    kept = S[..., :1] * torch.finfo(S.dtype).eps * max(G.shape[-2:]) < S
    nearest: Tensor = (U * kept.unsqueeze(-2)) @ Vt
    return nearest
