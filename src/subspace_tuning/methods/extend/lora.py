"""LoRA: add a product of two thin factors."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import dropout

from subspace_tuning.algebra import Elementwise, Expr
from subspace_tuning.method import Method, Params, Start, kaiming, zeros
from subspace_tuning.registry import register


@dataclass(frozen=True)
class LowRank(Method):
    """phi(W) = W + s A (...) B with A (n, r), B (r, m): the part that low-rank extensions share.

    Fields: rank r, scale alpha (s = alpha / r, or alpha / sqrt(r) when rank-stabilised, arXiv:2312.03732), and the
    probability with which entries of x are dropped on their way to A.
    """

    r: int = 8
    alpha: float = 16.0
    rank_stabilized: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"{self.name}: dropout is a probability in [0, 1), got {self.dropout!r}")

    @property
    def s(self) -> float:
        return self.alpha / (self.r**0.5 if self.rank_stabilized else self.r)

    def dropped(self, A: Expr, p: Params) -> Expr:
        """A with dropout on the rows that enter it."""
        if not (self.dropout and p.training):
            return A

        def drop(x: Tensor) -> Tensor:
            return dropout(x, self.dropout)

        return Elementwise(drop, A.shape[0], linear=True) @ A


@register("lora")
@dataclass(frozen=True)
class LoRA(LowRank):
    """phi(W) = W + s A B, s = alpha / r.

    A in R^{n x r}, B in R^{r x m}; B starts at zero.
    Source: arXiv:2106.09685; arXiv:2407.05417, eq. (21).
    """

    category = "extension"
    formula = "r (n + m)"
    paper = "arXiv:2106.09685"

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.A, p) @ p.B)
