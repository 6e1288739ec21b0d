"""LoRA-Pro: the steps of two factors whose product moves as near to full fine-tuning as it can."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subspace_tuning.optim.factored import FactoredAdamW, Moves, average
from subspace_tuning.optim.pairs import Pair
from subspace_tuning.optim.riemannian import inverse


class LoRAPro(FactoredAdamW):
    """AdamW on the product's own gradient, its step brought back to the factors.

    The gradients of A and B are adjusted (``adjusted``), which gives the product's gradient as near as factors come;
    Adam's moments are kept of that, as large as W, and its step is adjusted once more. So it takes the memory of full
    fine-tuning. Source: arXiv:2407.18242, algorithm 2.
    """

    def moves(self, pair: Pair, gradients: Moves, state: dict[str, Any], group: dict[str, Any]) -> Moves:
        (A, B), s = pair.whole(), pair.scale
        G_A, G_B = adjusted(A, B, *gradients, s)
        G = s * (G_A @ B + A @ G_B)
        first, second = (average(state, k, g, b) for k, g, b in zip("MV", (G, G * G), group["betas"], strict=True))
        step = first / (second.sqrt() + group["eps"])
        return adjusted(A, B, s * step @ B.mT, s * A.mT @ step, s)


def adjusted(A: Tensor, B: Tensor, of_A: Tensor, of_B: Tensor, s: float) -> Moves:
    """G_A and G_B with s (G_A B + A G_B) nearest to the gradient G of the product s A B, given s G B^T and s A^T G.

    Of all such pairs, which differ by (-A X, X B), the one nearest to the gradients given. Source: arXiv:2407.18242,
    theorems 2.1 to 2.3.
    """
    of_rows, of_columns = inverse(A.mT @ A), inverse(B @ B.mT)
    G_A = (of_A - A @ of_rows @ A.mT @ of_A) @ of_columns / s**2
    G_B = of_rows @ of_B / s**2
    X = sylvester(A.mT @ A, B @ B.mT, -G_B @ B.mT)
    return G_A - A @ X, G_B + X @ B


def sylvester(P: Tensor, Q: Tensor, C: Tensor) -> Tensor:
    """X with P X + X Q = C for symmetric P and Q (..., r, r) without negative eigenvalues."""
    U: Tensor
    V: Tensor
    (p, U), (q, V) = torch.linalg.eigh(P), torch.linalg.eigh(Q)
    sums = p.clamp(min=0).unsqueeze(-1) + q.clamp(min=0).unsqueeze(-2)
    inside = U.mT @ C @ V
    least = sums.amax((-2, -1), keepdim=True) * torch.finfo(C.dtype).eps
    return U @ torch.where(sums > least, inside / sums.clamp(min=torch.finfo(C.dtype).tiny), 0.0) @ V.mT
