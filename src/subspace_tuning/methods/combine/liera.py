"""LieRA: the weight as an element of a Lie group, its low-rank update in the Lie algebra."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Hadamard, Weight
from subspace_tuning.linalg.nearest import hadamard_low_rank
from subspace_tuning.method import Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import LowRank


@register("liera")
@dataclass(frozen=True)
class LieRA(LowRank):
    """phi(W) = W o exp(s A B), to first order W + s W o (A B), s = alpha / r.

    A in R^{n x r}, B in R^{r x m} starting at zero; exp and o are element-wise. Field ``order``: ``first``, as the
    paper trains, or ``exponential``, the map itself.
    Source: arXiv:2504.00851.
    """

    order: str = "first"

    category = "combination"
    formula = "r (n + m)"
    paper = "arXiv:2504.00851"
    rebuilds = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ("first", "exponential"):
            raise ValueError(f"{self.name}: order is first or exponential, got {self.order!r}")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        if self.order == "first":
            return W + self.s * self.dropped(Hadamard(W, p.A, p.B), p)

        def h(M: Tensor) -> Tensor:
            return torch.expm1(self.s * M)

        return W + self.dropped(Hadamard(W, p.A, p.B, h), p)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """W o exp(t s A B), to first order W + t s W o (A B)."""
        return self.with_fields(alpha=t * self.alpha).phi(W, p)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """To first order; the search goes on from there where the map is exponential."""
        A, B = hadamard_low_rank(W.dense(), W_star.dense() - W.dense(), self.r)
        return {"A": A / self.s, "B": B}
