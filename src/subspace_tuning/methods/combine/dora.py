"""DoRA: train the norms of the columns and their directions apart."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Live, Weight
from subspace_tuning.algebra.norms import column_norms
from subspace_tuning.linalg.powers import scale_power
from subspace_tuning.linalg.svd import wide
from subspace_tuning.method import Constants, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import Factored


@register("dora")
@dataclass(frozen=True)
class DoRA(Factored):
    """phi(W) = (W + s A B) diag(m / c), m_j = (1 + delta_j) ||W_j||, c_j = ||(W + s A B)_j||, s = alpha / r.

    A in R^{n x r}, B in R^{r x m} and delta in R^m, one for each output feature, the last two starting at zero; the
    bias is not scaled. A column of zeros has no direction and stays as it is. The paper and PEFT train m itself; for
    delta a step is a part of the column's norm, whatever that is. With ``detach`` (section 4.3) gradients take c for a
    constant; without it, after another method, they pass through a matrix of W's size.
    Source: arXiv:2402.09353, eqs. (5) and (11); arXiv:2407.05417, eqs. (32)-(33).
    """

    detach: bool = True

    category = "combination"
    formula = "r (n + m) + m"
    paper = "arXiv:2402.09353"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {**self.factors(n, m), "delta": zeros(m)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {**super().constants(W), "norms": wide(W.dense()).norm(dim=0)}

    def phi(self, W: Expr, p: Params) -> Expr:
        p = self.whole(p)
        return self._with_norms(W, p, p.m)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """(W + t s A B) diag(m_t / c_t), m_t = m^t ||W||_c^{1 - t}, c_t = ||W + t s A B||_c."""
        p, delta = self.whole(p), p.delta
        own = p.norms
        if not isinstance(W, Weight):  # its norms are not those that m was made of
            own = column_norms(W, p.A.numbers, 0.0 * p.B.numbers, own, self.detach)
            delta = p.m / own - 1
        m = own * (1 + Live.of(scale_power, delta, t))
        scaled = {k: Live.of(_times, getattr(p, k).numbers, t) for k in ("B", "B0") if k in p}
        return self._with_norms(W, p.replace(**scaled), m)

    def _with_norms(self, W: Expr, p: Params, m: Any) -> Expr:
        """(W + s A B) diag(m / c), A and B as they stand."""
        A, B = p.A.numbers, p.B.numbers
        if "A0" in p:
            A, B = Live.of(torch.cat, [A, p.A0.numbers], 1), Live.of(torch.cat, [B, -p.B0.numbers])
        c = column_norms(W, A, self.s * B, p.norms, self.detach)
        return self.extended(W, self.dropped(p.A, p) @ p.B, p) @ Diag(m / c)

    def whole(self, p: Params) -> Params:
        p = super().whole(p)
        return p.replace(m=(1 + p.delta) * p.norms)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """LoRA's, the norms being those of its columns: the search goes on from there."""
        best, constants = super().project(W, W_star), self.constants(W)
        p = self.whole(Params({**constants, **best, "delta": torch.zeros_like(constants["norms"])}))
        E = self.extended(W, p.A @ p.B, p)
        return {**best, "delta": _apart(wide(E.dense()).norm(dim=0), constants["norms"])}

    def unpacked(self, values: dict[str, Tensor], constants: Constants, n: int, m: int) -> dict[str, Tensor]:
        """``m`` itself may stand for delta."""
        values = super().unpacked(values, constants, n, m)
        if "m" in values:
            values["delta"] = _apart(values.pop("m"), constants["norms"])
        return values


def _times(B: Tensor, t: float) -> Tensor:
    return t * wide(B)


def _apart(m: Tensor, norms: Tensor) -> Tensor:
    """delta with m = (1 + delta) norms; 0 for a column of zeros."""
    return torch.where(norms > 0, m / norms - 1, 0.0)
