"""FLoRA: a full core matrix between the two factors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Live, Weight
from subspace_tuning.algebra.precision import wide
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import Factored


@register("flora")
@dataclass(frozen=True)
class FLoRA(Factored):
    """phi(W) = W + s A (I + M) B, s = alpha / r.

    A in R^{n x r}, B in R^{r x m}; M in R^{r x r}, by which the core differs from the identity, and B start at zero.
    Source: arXiv:2405.14739; arXiv:2407.05417, eq. (22).
    """

    category = "extension"
    formula = "r (n + m + r)"
    paper = "arXiv:2405.14739"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {**self.factors(n, m), "M": zeros(self.r, self.r)}

    def phi(self, W: Expr, p: Params) -> Expr:
        p = self.whole(p)
        return self.extended(W, self.dropped(p.A, p) @ Live.of(_beside, p.M.numbers, p.B.numbers), p)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        best = super().project(W, W_star)
        return {**best, "M": best["B"].new_zeros(self.r, self.r)}


def _beside(M: Tensor, B: Tensor) -> Tensor:
    """(I + M) B, of which half precision would round 1 + M_ii to 1."""
    M, B = wide(M), wide(B)
    return torch.addmm(B, M.to(B.dtype), B)
