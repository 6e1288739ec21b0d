"""TriLoRA: a diagonal between the two factors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import Factored


@register("trilora")
@dataclass(frozen=True)
class TriLoRA(Factored):
    """phi(W) = W + s A D B, D = diag(1 + delta), s = alpha / r.

    A in R^{n x r}, delta in R^r, B in R^{r x m}; delta and B start at zero.
    Source: arXiv:2405.19229; arXiv:2407.05417, eq. (22).
    """

    category = "extension"
    formula = "r (n + m + 1)"
    paper = "arXiv:2405.19229"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {**self.factors(n, m), "delta": zeros(self.r)}

    def phi(self, W: Expr, p: Params) -> Expr:
        p = self.whole(p)
        return self.extended(W, self.dropped(p.A, p) @ Diag(1 + p.delta) @ p.B, p)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        best = super().project(W, W_star)
        return {**best, "delta": torch.zeros_like(best["B"][:, 0])}
