"""HiRA: a low-rank matrix, element-wise times the weight."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Expr, Hadamard, Weight
from subspace_tuning.linalg.nearest import hadamard_low_rank
from subspace_tuning.method import Method, Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register


@register("hira")
@dataclass(frozen=True)
class HiRA(Method):
    """phi(W) = W + W o (A B).

    A in R^{n x r}, B in R^{r x m} starting at zero; W o (A B) has rank up to rank(W) r.
    Source: HiRA, ICLR 2025 (openreview.net/forum?id=TwJrTz9cRS).
    """

    r: int = 8

    category = "combination"
    formula = "r (n + m)"
    paper = "openreview.net/forum?id=TwJrTz9cRS"
    rebuilds = True
    wide = True

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + Hadamard(W, p.A, p.B)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        A, B = hadamard_low_rank(W.dense(), W_star.dense() - W.dense(), self.r)
        return {"A": A, "B": B}
