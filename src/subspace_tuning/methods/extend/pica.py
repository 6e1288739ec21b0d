"""PiCa: train within the principal column space of W."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Expr, Weight
from subspace_tuning.linalg.store import top_svd
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.tie import check_tie, tied


@register("pica")
@dataclass(frozen=True)
class PiCa(Method):
    """phi(W) = W + U_r B.

    U_r (n, r) are the singular vectors of W's r largest singular values, on the input side; B in R^{r x m} starts at
    zero. ``tie`` says which layers share B: "none", or as the paper also does, "kind" (modules of one name).
    Source: arXiv:2505.20211.
    """

    r: int = 8
    tie: str = "none"

    category = "extension"
    formula = "r m"
    paper = "arXiv:2505.20211"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tie(self)

    @property
    def shared(self) -> dict[str, str]:  # type: ignore[override]
        return tied("B", self.tie)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"B": zeros(self.r, m)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        dense = W.dense()
        return {"U": top_svd(dense, self.r).U.to(dense.dtype)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + p.U @ p.B

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        return {"B": self.constants(W)["U"].T @ (W_star.dense() - W.dense())}
