"""SVFit: train the largest singular values of W."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Start, constant
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnTop, along


@register("svfit")
@dataclass(frozen=True)
class SVFit(OnTop):
    """phi(W) = W + U_r diag(s - s_0) V_r^T, s trained from the r largest singular values s_0 of W.

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
        return {"s": constant("S", self.r)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + p.U @ Diag(p.s - p.S) @ p.Vt

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return {"s": along(self.constants(W), W_star.dense())}
