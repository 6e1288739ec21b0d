"""TriLoRA: a diagonal between the two factors."""

from dataclasses import dataclass

from subspace_tuning.algebra import Diag, Expr
from subspace_tuning.method import Params, Start, kaiming, ones, zeros
from subspace_tuning.methods.extend.lora import LowRank
from subspace_tuning.registry import register


@register("trilora")
@dataclass(frozen=True)
class TriLoRA(LowRank):
    """phi(W) = W + s A D B, D = diag(d), s = alpha / r.

    A in R^{n x r}, d in R^r, B in R^{r x m}; B starts at zero.
    Source: arXiv:2405.19229; arXiv:2407.05417, eq. (22).
    """

    category = "extension"
    formula = "r (n + m + 1)"
    paper = "arXiv:2405.19229"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "d": ones(self.r), "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ Diag(p.d) @ p.B)
