"""SAM-PARSER: train the singular values of W."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnSpectrum, along


@register("sam_parser")
@dataclass(frozen=True)
class SAMParser(OnSpectrum):
    """phi(W) = U diag(s_0 + delta) V^T, delta trained.

    U (n, k), s_0 (k,) and V (m, k) are the singular vectors and values of W, k = min(n, m).
    Source: arXiv:2308.14604; arXiv:2407.05417, eqs. (6)-(7).
    """

    category = "reconstruction"
    mode = "1: singular values"
    formula = "k"
    paper = "arXiv:2308.14604"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"delta": zeros(min(n, m))}

    def phi(self, W: Expr, p: Params) -> Expr:
        return self.between(W, p, Diag(p.S + p.delta), Diag(p.delta))

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """U diag(s_0 + t delta) V^T."""
        return self.phi(W, p.replace(delta=t * p.delta))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        terms = self.constants(W)
        return {"delta": along(terms, W_star.dense()) - terms["S"]}
