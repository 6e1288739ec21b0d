"""LoRA-RITE: adaptive steps that do not depend on how a product is split into factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subspace_tuning.optim.factored import FactoredAdamW, Moves, average
from subspace_tuning.optim.pairs import Pair


class LoRARite(FactoredAdamW):
    """The product A B moves alike for A R and R^{-1} B, whatever invertible R.

    For A in R^{n x r} with B^T = U R (QR) and P = U^T U_before:

        G   = G_A R^{-1}                                  the gradient without B's magnitude
        V   = beta2 P V P^T + (1 - beta2) G^T G / n       second moment (r, r), in the basis U
        rho = beta2 (rho + max(0, max_i lambda_i(V_before) - lambda_i(P V_before P^T)))     what left the basis
        M   = beta1 M P^T + (1 - beta1) G (V + rho I)^{-1/2}
        A  <- A - lr M R^{-T}

    and B^T likewise with A for B^T. Averages are corrected for their start at zero, as Adam's. Source:
    arXiv:2410.20625, algorithm 1; averages in place of sums, and the mean over rows, as the authors' program has them.
    """

    def moves(self, pair: Pair, gradients: Moves, state: dict[str, Any], group: dict[str, Any]) -> Moves:
        (A, B), (of_A, of_B) = pair.whole(), gradients
        betas = group["betas"]
        return _moved(of_A, B.mT, state, "A", betas), _moved(of_B.mT, A, state, "B", betas).mT


def _moved(gradient: Tensor, other: Tensor, state: dict[str, Any], side: str, betas: tuple[float, float]) -> Tensor:
    """The move of one factor (..., n, r), given the other one (..., m, r)."""
    U, R = torch.linalg.qr(other)
    R_inverse = torch.linalg.pinv(R)
    G = gradient @ R_inverse
    basis, V, M, rho = (f"{side}_{name}" for name in ("basis", "V", "M", "rho"))
    if basis in state:
        P = U.mT @ state[basis]
        before, state[V] = state[V], P @ state[V] @ P.mT
        lost = torch.linalg.eigvalsh(before) - torch.linalg.eigvalsh(state[V])
        state[rho] = betas[1] * (state[rho] + lost.amax(-1).clamp(min=0))
        state[M] = state[M] @ P.mT
    else:
        state[rho] = torch.zeros_like(R[..., 0, 0])
    state[basis] = U.contiguous()
    second = average(state, V, G.mT @ G / G.shape[-2], betas[1])
    escaped = state[rho] / (1 - betas[1] ** float(state["step"]))
    move: Tensor = average(state, M, G @ _inverse_root(second, escaped), betas[0]) @ R_inverse.mT
    return move


def _inverse_root(V: Tensor, rho: Tensor) -> Tensor:
    """(V + rho I)^{-1/2} of a symmetric V (..., r, r) and rho (...); nothing along directions that are zero."""
    values: Tensor
    vectors: Tensor
    values, vectors = torch.linalg.eigh((V + V.mT) / 2)
    values = values.clamp(min=0) + rho.unsqueeze(-1)
    least = values.amax(-1, keepdim=True) * torch.finfo(V.dtype).eps * V.shape[-1]
    root = torch.where(values > least, values.clamp(min=torch.finfo(V.dtype).tiny).rsqrt(), 0.0)
    return vectors * root.unsqueeze(-2) @ vectors.mT
