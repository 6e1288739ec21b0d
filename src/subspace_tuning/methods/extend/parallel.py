"""Parallel Adapter: a bottleneck beside a weight."""

from dataclasses import dataclass

from subspace_tuning.algebra import Expr
from subspace_tuning.method import Method, Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.houlsby import check_nonlinearity, nonlinearity


@register("parallel")
@dataclass(frozen=True)
class Parallel(Method):
    """phi(x W) = x W + s h(x A) B.

    A in R^{n x r}, B in R^{r x m} starting at zero; with s != 1 it is the Scaled Parallel Adapter (the paper's s is 4).
    The same map as LoRA with alpha = s r held to MPC_n.
    Source: arXiv:2110.04366; arXiv:2407.05417, eq. (30).
    """

    r: int = 8
    s: float = 1.0
    h: str = "relu"

    category = "extension"
    formula = "r (n + m)"
    paper = "arXiv:2110.04366"
    mergeable = False
    wide = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonlinearity(self.name, self.h)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (p.A @ nonlinearity(self.h, self.r) @ p.B)
