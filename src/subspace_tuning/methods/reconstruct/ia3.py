"""(IA)3: scale the subspace on the right side of W."""

from dataclasses import dataclass

from subspace_tuning.algebra import Diag, Expr
from subspace_tuning.method import Method, Params, Start, ones
from subspace_tuning.registry import register


@register("ia3")
@dataclass(frozen=True)
class IA3(Method):
    """phi(W) = W D, D = diag(d).

    Scales the row space of the right singular vectors: one number per output feature; the bias stays as it is.
    Source: arXiv:2205.05638, section 3.3; arXiv:2407.05417, eq. (10).
    """

    category = "reconstruction"
    mode = "2: singular vectors, scaling"
    formula = "m"
    paper = "arXiv:2205.05638"
    places = "key_value_ff"
    learning_rate = 1e-2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"d": ones(m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W @ Diag(p.d)
