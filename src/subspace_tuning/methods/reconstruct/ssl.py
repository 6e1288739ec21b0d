"""SSL: scale the subspace on the left side of W."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Live, Weight
from subspace_tuning.linalg.nearest import row_scales
from subspace_tuning.linalg.powers import scale_power
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("ssl")
@dataclass(frozen=True)
class SSL(Method):
    """phi(W) = D W, D = diag(1 + delta).

    Scales the row space of the left singular vectors: one number per input feature, its deviation from 1 trained.
    Source: arXiv:2407.05417, eq. (10).
    """

    category = "reconstruction"
    mode = "2: singular vectors, scaling"
    formula = "n"
    paper = "arXiv:2407.05417"
    places = "key_value_ff"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"delta": zeros(n)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return Diag(1 + p.delta) @ W

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """D^t W; for entries d <= 0 of D, 1 + t (d - 1)."""
        return self.phi(W, p.replace(delta=Live.of(scale_power, p.delta, t)))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return {"delta": row_scales(W.dense(), W_star.dense()) - 1}
