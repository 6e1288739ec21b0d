"""Tied LoRA: one pair of factors for all layers of a shape, each with scales of its own."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import LowRank


@register("tied_lora")
@dataclass(frozen=True)
class TiedLoRA(LowRank):
    """phi(W) = W + s A diag(1 + u) B diag(1 + v), s = alpha / r, A and B shared by all layers of one shape.

    A in R^{n x r} and B in R^{r x m} are trained by all of these layers together; u in R^r and v in R^m are a layer's
    own. B, u and v start at zero. With A and B frozen and random it is VeRA.
    Source: arXiv:2311.09578, eq. (2), all four trained.
    """

    category = "extension"
    formula = "r (n + m) + r + m"
    paper = "arXiv:2311.09578"
    shared = {"A": "shape", "B": "shape"}

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m), "u": zeros(self.r), "v": zeros(m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ Diag(1 + p.u) @ p.B @ Diag(1 + p.v))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return self.nearest(W_star.dense() - W.dense())
