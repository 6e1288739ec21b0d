"""TinyLoRA: a few numbers for a whole model, by way of the singular vectors of each weight."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Live, Weight, matrix
from subspace_tuning.linalg.store import top_svd
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.projections import own_seed, projection, unit_normal
from subspace_tuning.methods.tie import check_tie, tied


@register("tinylora")
@dataclass(frozen=True)
class TinyLoRA(Method):
    """phi(W) = W + A (v_1 P_1 + ... + v_u P_u) B, A = U_r S_r, B = V_r^T, P_i frozen and random.

    Only v in R^u is trained, from zero. ``tie`` says which layers share it: "model" (u numbers in all, 13 in the
    paper's title), "kind" (modules of one name), "shape", or "none". A (n, r) and B (r, m) are the r largest terms of
    W's singular value decomposition; P_i in R^{r x r}, normal with variance 1 / r (the paper names no distribution),
    follow from the seed and the layer's name and are stored nowhere.
    Source: arXiv:2602.04118.
    """

    r: int = 2
    u: int = 13
    tie: str = "model"
    seed: int = 0

    category = "extension"
    formula = "u"
    paper = "arXiv:2602.04118"
    learning_rate = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tie(self)
        if self.u < 1:
            raise ValueError(f"{self.name}: u is a whole number above 0, got {self.u!r}")

    @property
    def shared(self) -> dict[str, str]:  # type: ignore[override]
        return tied("v", self.tie)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"v": zeros(self.u)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        dense = W.dense()
        U, S, Vt = top_svd(dense, self.r)
        P = projection(own_seed(self.seed, W), 0, (self.u, self.r * self.r), unit_normal, dense) / self.r**0.5
        return {"A": (U * S).to(dense.dtype), "B": Vt.to(dense.dtype), "P": P}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + p.A @ matrix(Live.of(_core, p.v, p.P.numbers, self.r)) @ p.B

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        c = self.constants(W)
        S = c["A"].norm(dim=0)  # ||A R B - dW|| = ||S R - U^T dW V|| but for what no R reaches
        core = (c["A"] / S.clamp_min(1e-30)).T @ (W_star.dense() - W.dense()) @ c["B"].T
        terms = (S.unsqueeze(1) * c["P"].view(self.u, self.r, self.r)).flatten(1)
        return {"v": torch.linalg.pinv(terms.T) @ core.flatten()}


def _core(v: Tensor, P: Tensor, r: int) -> Tensor:
    """v_1 P_1 + ... + v_u P_u (r, r) of v (u,) and P (u, r r)."""
    return (v @ P.to(v.dtype)).view(r, r)
