"""FLoRA: a full core matrix between the two factors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.method import Constants, Params, Start
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import Factored


@register("flora")
@dataclass(frozen=True)
class FLoRA(Factored):
    """phi(W) = W + s A M B, s = alpha / r.

    A in R^{n x r}, core M in R^{r x r} starting at the identity, B in R^{r x m} starting at zero.
    Source: arXiv:2405.14739; arXiv:2407.05417, eq. (22).
    """

    category = "extension"
    formula = "r (n + m + r)"
    paper = "arXiv:2405.14739"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {**self.factors(n, m), "M": Start((self.r, self.r), _identity)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return self.extended(W, self.dropped(p.A, p) @ p.M @ p.B, p)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        best = super().project(W, W_star)
        return {**best, "M": torch.eye(self.r).to(best["B"])}


def _identity(M: Tensor, _: Constants) -> None:
    torch.nn.init.eye_(M)
