"""KaSA: a triplet product in the place of the smallest singular directions of W."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.linalg.store import bottom_svd
from subspace_tuning.linalg.svd import truncated_svd
from subspace_tuning.method import Params, Start, kaiming, normal, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import LowRank


@register("kasa")
@dataclass(frozen=True)
class KaSA(LowRank):
    """phi(W) = W - U_r S_r V_r^T + s A diag(d) B, s = alpha / r, U_r S_r V_r^T the r smallest terms of W.

    A in R^{n x r}, d in R^r, B in R^{r x m}; A and d start at random, B at zero. So training starts at W without the r
    smallest terms of its singular value decomposition, which the paper takes for noise; W itself stays as it is, and
    comes back when the adapter is taken off. ``beta`` weighs a penalty ||d||^2, ``gamma`` one of ||A^T A - I||_F +
    ||B B^T - I||_F, means over all matrices, where the paper's are sums; 0 leaves them out.
    Source: arXiv:2412.06071, eqs. (8)-(11).
    """

    beta: float = 1e-4
    gamma: float = 1e-3

    category = "extension"
    wide = False
    formula = "r (n + m + 1)"
    paper = "arXiv:2412.06071"
    starts_at = "W without its r smallest singular terms"
    no_decay = "it would lead to W without its r smallest singular terms"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0 or self.gamma < 0:
            raise ValueError(f"{self.name}: beta and gamma are at least 0, got beta={self.beta}, gamma={self.gamma}")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "d": normal(self.r, std=1.0), "B": zeros(self.r, m)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        dense = W.dense()
        U, S, Vt = bottom_svd(dense, self.r)
        return {"U": (U * S).to(dense.dtype), "Vt": Vt.to(dense.dtype)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W - p.U @ p.Vt + self.s * (self.dropped(p.A, p) @ Diag(p.d) @ p.B)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        away = self.constants(W)
        A, d, B = truncated_svd((W_star.dense() - W.dense() + away["U"] @ away["Vt"]) / self.s, self.r)
        return {"A": A, "d": d, "B": B}

    @property
    def penalises(self) -> bool:
        return self.beta > 0 or self.gamma > 0

    def penalty(self, p: Params, among: int = 1) -> Tensor | None:
        if not self.penalises:
            return None
        A, d, B = p.A.dense(), p.d.now(), p.B.dense()
        one = torch.eye(self.r, dtype=A.dtype, device=A.device)
        apart = (A.T @ A - one).norm() + (B @ B.T - one).norm()
        return (self.beta * d.square().sum() + self.gamma * apart) / among
