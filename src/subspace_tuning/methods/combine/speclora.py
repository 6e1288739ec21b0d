"""SpecLoRA: scale the top singular directions of W, beside a low-rank product."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.linalg.nearest import in_turn
from subspace_tuning.linalg.store import top_svd
from subspace_tuning.method import Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.directions import WithDirections
from subspace_tuning.methods.spectrum import along


@register("speclora")
@dataclass(frozen=True)
class SpecLoRA(WithDirections):
    """phi(W) = W + U_k diag(delta S_k) V_k^T + s A B, s = alpha / r.

    The k = ``directions`` largest singular values of W are scaled to (1 + delta) S_k; U_k (n, k) and V_k^T (k, m) are
    their vectors. A in R^{n x r}, B in R^{r x m}; delta in R^k and B start at zero. The same as SVFit before LoRA, with
    delta in parts of each singular value. The paper scales by a mask on W in the place of the decomposition; here the
    singular values themselves are scaled.
    Source: arXiv:2505.23099.
    """

    category = "combination"
    formula = "r (n + m) + directions"
    paper = "arXiv:2505.23099"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m), "delta": zeros(self.directions)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        dense = W.dense()
        return top_svd(dense, self.directions).to(dense.dtype)._asdict()

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ p.B) + p.U @ Diag(p.delta * p.S) @ p.Vt

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        terms = self.constants(W)

        def low_rank(D: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            found = self.nearest(D)
            return found, self.s * (found["A"] @ found["B"])

        def scaled(D: Tensor) -> Tensor:
            return terms["U"] * along(terms, D) @ terms["Vt"]

        found, beside = in_turn(W_star.dense() - W.dense(), low_rank, scaled)
        S = terms["S"]
        return {**found, "delta": along(terms, beside) / S.clamp_min(S.max() * 1e-12 + 1e-30)}
