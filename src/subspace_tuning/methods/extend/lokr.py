"""LoKr: a Kronecker product."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.algebra import Expr, Kronecker, Weight
from subspace_tuning.linalg.nearest import low_rank
from subspace_tuning.method import Method, Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register


@register("lokr")
@dataclass(frozen=True)
class LoKr(Method):
    """phi(W) = W + s C (x) D, D = D1 D2, s = alpha / r.

    C in R^{n1 x m1}, D1 in R^{n2 x r}, D2 in R^{r x m2} starting at zero, for n = n1 n2 and m = m1 m2 with n1 <= n2 and
    m1 <= m2 as close as they come (``factor`` caps n1 and m1). Where r is half the larger side of D or more, D is
    trained whole, from zero; d counts its numbers.
    Source: arXiv:2309.14859.
    """

    r: int = 8
    alpha: float = 16.0
    factor: int | None = None

    category = "extension"
    pairs = (("D1", "D2"),)
    formula = "n1 m1 + d"
    paper = "arXiv:2309.14859"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor is not None and self.factor < 1:
            raise ValueError(f"{self.name}: factor is a whole number above 0 or none, got {self.factor!r}")

    def sizes(self, n: int, m: int) -> dict[str, int]:
        n1, m1 = (self._divisor(size) for size in (n, m))
        return {"n1": n1, "m1": m1, "d": sum(_numel(s) for k, s in self.parameters(n, m).items() if k != "C")}

    def _divisor(self, size: int) -> int:
        """The largest divisor that is at most the root of the size, and at most the factor."""
        top = min(int(size**0.5), self.factor or size)
        return next(d for d in range(top, 0, -1) if size % d == 0)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        n1, m1 = self._divisor(n), self._divisor(m)
        n2, m2 = n // n1, m // m1
        C = {"C": kaiming(n1, m1)}
        if self.r >= max(n2, m2) / 2:
            return {**C, "D": zeros(n2, m2)}
        return {**C, "D1": kaiming(n2, self.r), "D2": zeros(self.r, m2)}

    def phi(self, W: Expr, p: Params) -> Expr:
        D = p.D if "D" in p else p.D1 @ p.D2
        return W + self.alpha / self.r * Kronecker(p.C, D)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """The nearest C (x) D of all D, then the nearest D1 D2: exact for what is reached, else a start."""
        n1, m1 = (self._divisor(size) for size in W.shape)
        dW = (W_star.dense() - W.dense()) * (self.r / self.alpha)
        blocks = dW.unflatten(1, (m1, -1)).unflatten(0, (n1, -1)).transpose(1, 2)  # (n1, m1, n2, m2)
        C, D = low_rank(blocks.flatten(2).flatten(0, 1), 1)
        C, D = C.view(n1, m1), D.view(blocks.shape[2:])
        if "D" in self.parameters(*W.shape):
            return {"C": C, "D": D}
        D1, D2 = low_rank(D, self.r)
        return {"C": C, "D1": D1, "D2": D2}


def _numel(start: Start) -> int:
    return start.shape[0] * start.shape[1]
