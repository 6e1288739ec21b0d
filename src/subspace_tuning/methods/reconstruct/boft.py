"""BOFT: rotate the neurons of a weight by a butterfly of small rotations."""

from dataclasses import dataclass

from subspace_tuning.algebra import BlockDiag, Diag, Expr, Live, Product
from subspace_tuning.linalg.powers import scale_power
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.reconstruct.oft import below, turns, turns_t


@register("boft")
@dataclass(frozen=True)
class BOFT(Method):
    """phi(W) = R_factors ... R_1 W D, D = diag(1 + delta), R_i orthogonal and block-diagonal in some order.

    Each factor has blocks of size b in OFT's form (I + Q)(I - Q)^{-1}; those of R_1 stand side by side, those of R_i
    join b / 2 features with the b / 2 that are 2^{i-1} b / 2 further on, so that R mixes 2^{factors-1} b features. The
    numbers q of all Q, factor after factor, and delta in R^m, one for each output, start at zero. What is left over
    where 2^{i-1} b does not divide n stays as it is in R_i; N counts the blocks of all factors. PEFT holds b^2 numbers
    for each Q and the inverse rotation.
    Source: arXiv:2311.06243.
    """

    b: int = 4
    factors: int = 2

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    formula = "N b (b - 1) / 2 + m"
    paper = "arXiv:2311.06243"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("b", 2), ("factors", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{self.name}: {name} is a whole number from {least} on, got {name}={value!r}")
        if self.factors > 1 and self.b % 2:
            raise ValueError(f"{self.name}: a butterfly joins halves of blocks; b is even, got b={self.b}")

    def blocks(self, n: int) -> list[int]:
        """How many blocks each factor has."""
        return [n // (self.b << i) << i for i in range(self.factors)]

    def sizes(self, n: int, m: int) -> dict[str, int]:
        return {"N": sum(self.blocks(n))}

    def check(self, n: int, m: int) -> None:
        if not self.blocks(n)[-1]:
            raise ValueError(
                f"{self.describe()}: the last factor joins {self.b << self.factors - 1} features, more than the {n} "
                "inputs of this weight; choose fewer factors or leave the module out"
            )

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"q": zeros(sum(self.blocks(n)) * below(self.b)), "delta": zeros(m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return self._turned(W, [Live.of(turns, q, self.b, count) for q, count in self._parts(W, p)], p)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """R_factors^t ... R_1^t W D^t, every rotation by t times its angles; for entries d <= 0 of D, 1 + t (d - 1)."""
        p = p.replace(delta=Live.of(scale_power, p.delta, t))
        return self._turned(W, [Live.of(turns_t, q, self.b, count, t) for q, count in self._parts(W, p)], p)

    def _turned(self, W: Expr, factors: list[Live], p: Params) -> Expr:
        n = W.shape[0]
        R = [BlockDiag(factor, n, 1 << i) for i, factor in enumerate(factors)]
        return Product((*reversed(R), W, Diag(1 + p.delta)))

    def _parts(self, W: Expr, p: Params) -> list[tuple[Live, int]]:
        """Of each factor its numbers and how many blocks it has."""
        found, start = [], 0
        for count in self.blocks(W.shape[0]):
            found.append((p.q[start : start + count * below(self.b)], count))
            start += count * below(self.b)
        return found
