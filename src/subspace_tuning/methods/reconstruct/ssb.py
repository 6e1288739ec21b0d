"""SSB: scale the subspaces on both sides of W."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Live, Weight
from subspace_tuning.linalg.nearest import both_scales
from subspace_tuning.linalg.powers import scale_power
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("ssb")
@dataclass(frozen=True)
class SSB(Method):
    """phi(W) = D1 W D2, D1 = diag(1 + delta1), D2 = diag(1 + delta2).

    Scales the row spaces of the left and the right singular vectors: one number per input and per output feature, its
    deviation from 1 trained.
    Source: arXiv:2407.05417, eq. (10).
    """

    category = "reconstruction"
    mode = "2: singular vectors, scaling"
    formula = "n + m"
    paper = "arXiv:2407.05417"
    places = "key_value_ff"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"delta1": zeros(n), "delta2": zeros(m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return Diag(1 + p.delta1) @ W @ Diag(1 + p.delta2)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """D1^t W D2^t; for entries d <= 0 of D1 and D2, 1 + t (d - 1)."""
        powers = {k: Live.of(scale_power, getattr(p, k), t) for k in ("delta1", "delta2")}
        return self.phi(W, p.replace(**powers))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        d1, d2 = both_scales(W.dense(), W_star.dense())
        return {"delta1": d1 - 1, "delta2": d2 - 1}
