"""SVDiff: shift the singular values of W."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnSpectrum, along


@register("svdiff")
@dataclass(frozen=True)
class SVDiff(OnSpectrum):
    """phi(W) = U relu(S + diag(d)) V^T.

    S holds the k = min(n, m) singular values of W; d in R^k starts at zero.
    Source: arXiv:2303.11305; arXiv:2407.05417, eqs. (39)-(40).
    """

    category = "combination"
    formula = "k"
    paper = "arXiv:2303.11305"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"d": zeros(min(n, m))}

    def phi(self, W: Expr, p: Params) -> Expr:
        s = torch.relu(p.S + p.d)
        return self.between(W, p, Diag(s), Diag(s - p.S))

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """U relu(S + t diag(d)) V^T."""
        return self.phi(W, p.replace(d=t * p.d))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        terms = self.constants(W)
        return {"d": torch.relu(along(terms, W_star.dense())) - terms["S"]}
