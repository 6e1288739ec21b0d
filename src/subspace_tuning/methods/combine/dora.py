"""DoRA: train the norms of the columns and their directions apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Diag, Expr, Live, Weight
from subspace_tuning.algebra.norms import column_norms
from subspace_tuning.linalg.svd import wide
from subspace_tuning.method import Params, Start, constant
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import Factored


@register("dora")
@dataclass(frozen=True)
class DoRA(Factored):
    """phi(W) = (W + s A B) diag(m / c), c_j = ||(W + s A B)_j||, s = alpha / r.

    A in R^{n x r}, B in R^{r x m} starting at zero, m in R^m starting at the norms of W's columns, one for each output
    feature; the bias is not scaled. With ``detach`` (section 4.3) gradients take c for a constant; without it, after
    another method, they pass through a matrix of W's size.
    Source: arXiv:2402.09353, eqs. (5) and (11); arXiv:2407.05417, eqs. (32)-(33).
    """

    detach: bool = True

    category = "combination"
    formula = "r (n + m) + m"
    paper = "arXiv:2402.09353"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {**self.factors(n, m), "m": constant("norms", m)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {**super().constants(W), "norms": wide(W.dense()).norm(dim=0)}

    def phi(self, W: Expr, p: Params) -> Expr:
        A, B = p.A.numbers, p.B.numbers
        if "A0" in p:
            A, B = Live.of(torch.cat, [A, p.A0.numbers], 1), Live.of(torch.cat, [B, -p.B0.numbers])
        c = column_norms(W, A, self.s * B, p.norms, self.detach)
        return self.extended(W, self.dropped(p.A, p) @ p.B, p) @ Diag(p.m / c)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """LoRA's, the norms being those of its columns: the search goes on from there."""
        best = super().project(W, W_star)
        E = self.extended(W, Dense(best["A"]) @ best["B"], Params({**self.constants(W), **best}))
        return {**best, "m": wide(E.dense()).norm(dim=0)}
