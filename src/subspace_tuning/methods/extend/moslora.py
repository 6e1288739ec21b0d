"""MoSLoRA: a mixer between the two factors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.method import Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import LowRank


@register("moslora")
@dataclass(frozen=True)
class MoSLoRA(LowRank):
    """phi(W) = W + s A M B, s = alpha / r.

    A in R^{n x r}, B in R^{r x m} starting at zero, mixer M in R^{r x r} starting random: ``kaiming`` or
    ``orthogonal``, the two starts that the paper finds to work best. FLoRA's form, which starts M at the identity.
    Source: arXiv:2406.11909.
    """

    mixer: str = "kaiming"

    category = "extension"
    formula = "r (n + m + r)"
    paper = "arXiv:2406.11909"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixer not in ("kaiming", "orthogonal"):
            raise ValueError(f"{self.name}: the mixer starts kaiming or orthogonal, got {self.mixer!r}")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        shape = (self.r, self.r)
        M = kaiming(*shape) if self.mixer == "kaiming" else Start(shape, lambda t, _: torch.nn.init.orthogonal_(t))
        return {"A": kaiming(n, self.r), "M": M, "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ p.M @ p.B)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        best = self.nearest(W_star.dense() - W.dense())
        return {**best, "M": torch.eye(self.r).to(best["B"])}
