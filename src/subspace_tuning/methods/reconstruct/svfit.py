"""SVFit: train the largest singular values of W."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnTop, along


@register("svfit")
@dataclass(frozen=True)
class SVFit(OnTop):
    """phi(W) = W + U_r diag(delta) V_r^T, delta added to the r largest singular values of W.

    U_r (n, r) and V_r (m, r) are their singular vectors. The paper takes r so large that the r values hold nearly all
    of W (768 for RoBERTa-base, where it is SAM-PARSER).
    Source: arXiv:2409.05926.
    """

    category = "reconstruction"
    mode = "1: singular values"
    formula = "r"
    paper = "arXiv:2409.05926"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"delta": zeros(self.r)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + p.U @ Diag(p.delta) @ p.Vt

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        terms = self.constants(W)
        return {"delta": along(terms, W_star.dense()) - terms["S"]}
