"""SAM-PARSER: train the singular values of W."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Start, constant
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnSpectrum, along


@register("sam_parser")
@dataclass(frozen=True)
class SAMParser(OnSpectrum):
    """phi(W) = U diag(s) V^T, s trained from the singular values of W.

    U (n, k) and V (m, k) are the singular vectors of W, k = min(n, m).
    Source: arXiv:2308.14604; arXiv:2407.05417, eqs. (6)-(7).
    """

    category = "reconstruction"
    mode = "1: singular values"
    formula = "k"
    paper = "arXiv:2308.14604"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"s": constant("S", min(n, m))}

    def phi(self, W: Expr, p: Params) -> Expr:
        return self.between(W, p, Diag(p.s), Diag(p.s - p.S))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return {"s": along(self.constants(W), W_star.dense())}
