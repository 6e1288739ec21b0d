"""LoRA-XS: a small core between frozen singular vectors."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.linalg.store import top_svd
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import LowRank


@register("lora_xs")
@dataclass(frozen=True)
class LoRAXS(LowRank):
    """phi(W) = W + s A M B, A = U_r S_r, B = V_r^T, s = alpha / r.

    Only M in R^{r x r} (R in the paper) is trained; A (n, r) and B (r, m) are the r largest terms of W's singular value
    decomposition. M starts at zero where the paper draws it with deviation 1e-5, so that phi(W) = W exactly.
    Source: arXiv:2405.17604.
    """

    category = "extension"
    wide = False
    formula = "r r"
    paper = "arXiv:2405.17604"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"M": zeros(self.r, self.r)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        dense = W.dense()
        U, S, Vt = top_svd(dense, self.r)
        return {"A": (U * S).to(dense.dtype), "B": Vt.to(dense.dtype)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ p.M @ p.B)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        A, B = self.constants(W).values()  # A^T A = S^2, B B^T = I
        inside = A.T @ (W_star.dense() - W.dense()) @ B.T
        return {"M": inside / (self.s * A.square().sum(0).unsqueeze(1))}
