"""PiSSA and MiLoRA: train the largest or the smallest part of W instead of a product that starts at zero."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.linalg.nearest import low_rank
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.starts import behind_start, milora, pissa


@dataclass(frozen=True)
class Instead(Method):
    """phi(W) = W + (A_0 + A) (B_0 + B) - A_0 B_0: a part A_0 B_0 of W is trained, W itself stays as it is."""

    r: int = 8

    category = "extension"
    formula = "r (n + m)"
    learning_rate = 3e-4  # A and B are large from the start

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": zeros(n, self.r), "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        p = self.whole(p)
        return W + p.A @ p.B - p.A0 @ p.B0

    def whole(self, p: Params) -> Params:
        return behind_start(p)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        A0, B0 = self.constants(W).values()
        A, B = low_rank(W_star.dense() - W.dense() + A0 @ B0, self.r)
        return {"A": A - A0, "B": B - B0}


@register("pissa")
@dataclass(frozen=True)
class PiSSA(Instead):
    """phi(W) = W + (A_0 + A) (B_0 + B) - A_0 B_0, A_0 B_0 the r largest terms of W's singular value decomposition.

    A_0 = U_r S_r^{1/2}, B_0 = S_r^{1/2} V_r^T; A in R^{n x r} and B in R^{r x m} start at zero. The paper's residual
    W - A_0 B_0 is never written, and phi(W) - W has rank 2 r. With a scale, dropout or a core between A and B, it is
    LoRA(init="pissa") and the like.
    Source: arXiv:2404.02948.
    """

    paper = "arXiv:2404.02948"

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return pissa(W.dense(), self.r)._asdict()


@register("milora")
@dataclass(frozen=True)
class MiLoRA(Instead):
    """phi(W) = W + (A_0 + A) (B_0 + B) - A_0 B_0, A_0 B_0 the r smallest terms of W's singular value decomposition.

    A_0 = U S^{1/2}, B_0 = S^{1/2} V^T, for the r smallest singular values; A in R^{n x r} and B in R^{r x m} start at
    zero.
    Source: arXiv:2406.09044.
    """

    paper = "arXiv:2406.09044"

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return milora(W.dense(), self.r)._asdict()
