"""Where A (n, r) and B (r, m) of a low-rank product may start, given W and what a calibration pass found in the data.

    eva      A0 = the r first principal directions of the rows x, B0 = 0             EVA, arXiv:2410.07170
    lora_ga  dL/dW = U S V^T; A0 = c U_[1:r], B0 = c V_[r+1:2r]^T, c^4 = m / 16^2    LoRA-GA, arXiv:2407.05000
    lora_one -dL/dW = U S V^T, T = S / S_1; A0 = c U_[1:r] T^1/2, B0 = c T^1/2 V_[1:r]^T, c^4 = m / 128^2
                                                                                LoRA-One, arXiv:2502.01235
    corda    s A0 B0 = C^-1 (the r largest terms of the SVD of C W), C = X^T X       CorDA, arXiv:2406.05223

LoRA-One is the one start that moves W: phi(W) = W + s A0 B0, a step down the gradient, as long as its authors' code
makes it. EVA keeps one rank for all layers here (rho = 1). CorDA is its instruction-previewed mode. PEFT differs: it
centres the rows for EVA; for LoRA-GA it multiplies B0 by the singular values too, and only B0 by c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from subspace_tuning.linalg.svd import svd
from subspace_tuning.methods.extend.starts import Factors

GAMMA = 16.0  # of LoRA-GA
FIRST_STEP = 128.0  # of LoRA-One: what divides it
DAMPING = 0.01  # of CorDA: the share of C's mean diagonal that makes it invertible


class DataStart(NamedTuple):
    asks: str  # for the activations or the gradients: see calibrate.py
    factors: Callable[[Tensor, Tensor, int, float], Factors]  # of W, what was found, r and s
    plain: bool = False  # whether A and B themselves start there, and nothing is taken off


def eva(W: Tensor, C: Tensor, r: int, s: float) -> Factors:
    directions = torch.linalg.eigh(C.double()).eigenvectors.flip(1)[:, :r]
    return Factors(directions.to(W.dtype), W.new_zeros(r, W.shape[1]))


def lora_ga(W: Tensor, G: Tensor, r: int, s: float) -> Factors:
    U, _, Vt = svd(G)
    c = W.shape[1] ** 0.25 / GAMMA**0.5
    return Factors((c * U[:, :r]).to(W.dtype), (c * Vt[r : 2 * r]).to(W.dtype))


def lora_one(W: Tensor, G: Tensor, r: int, s: float) -> Factors:
    U, S, Vt = svd(-G, r)
    root = (W.shape[1] ** 0.5 / FIRST_STEP * S / S[0].clamp_min(torch.finfo(S.dtype).tiny)).sqrt()
    return Factors((U * root).to(W.dtype), (root.unsqueeze(1) * Vt).to(W.dtype))


def corda(W: Tensor, C: Tensor, r: int, s: float) -> Factors:
    C = C.double()
    C = C + DAMPING * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype, device=C.device)
    U, S, Vt = svd(C @ W.double(), r)
    root = (S / s).sqrt()
    return Factors(torch.linalg.solve(C, U * root).to(W.dtype), (root.unsqueeze(1) * Vt).to(W.dtype))


DATA_STARTS = {
    "eva": DataStart("activations", eva, plain=True),
    "lora_ga": DataStart("gradients", lora_ga),
    "lora_one": DataStart("gradients", lora_one, plain=True),
    "corda": DataStart("activations", corda),
}
