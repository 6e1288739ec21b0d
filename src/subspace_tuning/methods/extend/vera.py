"""VeRA: frozen random projections, trained scales."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Weight
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.projections import kaiming_uniform, projection, projection_pair


@register("vera")
@dataclass(frozen=True)
class VeRA(Method):
    """phi(W) = W + A diag(d_initial + delta) B diag(b), A and B frozen and random.

    A in R^{n x r} and B in R^{r x m} follow from the seed and their shapes, so that layers of one shape share them and
    nothing of them is stored; delta in R^r and b in R^m start at zero. PEFT cuts the projections of all layers
    out of one pair of the largest sizes instead; given these sizes, ``cut_n`` and ``cut_m``, so it is here.
    Source: arXiv:2310.11454.
    """

    r: int = 256
    d_initial: float = 0.1
    seed: int = 0
    cut_n: int = 0
    cut_m: int = 0

    category = "extension"
    formula = "r + m"
    paper = "arXiv:2310.11454"
    learning_rate = 1e-2
    places = "query_value"
    wide = True

    def check(self, n: int, m: int) -> None:
        super().check(n, m)
        if self.cut_n and (n > self.cut_n or m > self.cut_m):
            raise ValueError(f"{self.describe()}: a weight of {n} x {m} cannot be cut from that")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"delta": zeros(self.r), "b": zeros(m)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        (n, m), like = W.shape, W.like
        if self.cut_n:
            A, B = projection_pair(self.seed, self.cut_n, self.cut_m, self.r, like)
            return {"A": A[:n], "B": B[:, :m]}
        return {
            "A": projection(self.seed, 0, (n, self.r), kaiming_uniform, like),
            "B": projection(self.seed, 1, (self.r, m), kaiming_uniform, like),
        }

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + p.A @ Diag(self.d_initial + p.delta) @ p.B @ Diag(p.b)
