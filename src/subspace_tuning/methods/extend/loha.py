"""LoHa: an element-wise product of two low-rank matrices."""

from dataclasses import dataclass

from subspace_tuning.algebra import Expr, khatri_rao, khatri_rao_rows
from subspace_tuning.method import Method, Params, Start, normal, zeros
from subspace_tuning.method.registry import register


@register("loha")
@dataclass(frozen=True)
class LoHa(Method):
    """phi(W) = W + s (A1 B1) o (A2 B2), s = alpha / r.

    A1, A2 in R^{n x r}, B1, B2 in R^{r x m}, B2 starting at zero, the others normal. The product has rank up to r^2 and
    exactly the factors of all products of columns and of rows; these meet x, until r^2 (n + m) outgrows n m and the
    planner lays the product out.

    The nearest product to a given dW has no closed form and many local minima. A planted dW is found again where it has
    no more numbers than the factors are free to choose; in R^{14 x 21} by 7 of 48 random starts at r = 2 and by none at
    r = 5, which leave 2e-4 of ||dW||^2 at best (benchmarks/loha_starts.py).
    Source: arXiv:2108.06098; arXiv:2309.14859.
    """

    r: int = 8
    alpha: float = 16.0

    category = "extension"
    pairs = (("A1", "B1"), ("A2", "B2"))
    formula = "2 r (n + m)"
    paper = "arXiv:2108.06098"
    wide = True

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {
            "A1": normal(n, self.r, std=1.0),
            "B1": normal(self.r, m, std=0.1),
            "A2": normal(n, self.r, std=1.0),
            "B2": zeros(self.r, m),
        }

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.alpha / self.r * (khatri_rao(p.A1, p.A2) @ khatri_rao_rows(p.B1, p.B2))
