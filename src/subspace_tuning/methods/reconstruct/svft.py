"""SVFT: train a few couplings between the singular vectors of W."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Sparse, Weight
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnSpectrum

PATTERNS = ("plain", "banded", "random")


@register("svft")
@dataclass(frozen=True)
class SVFT(OnSpectrum):
    """phi(W) = U (S + M) V^T, M sparse with entries at fixed places.

    ``plain``: M is diagonal (d = 0). ``banded``: M has d diagonals on each side of the main one. ``random``: as many
    entries as that, anywhere, placed by the seed. M starts at zero; U (n, k) and V (m, k) are the thin singular
    vectors, k = min(n, m), as in the authors' code, which also puts a sigmoid gate on M and starts it at random.
    Source: arXiv:2405.19597, eq. (1) and section 3.1.
    """

    pattern: str = "plain"
    d: int = 0
    seed: int = 0

    category = "reconstruction"
    mode = "1: singular values"
    formula = "k (2 d + 1) - d (d + 1)"
    paper = "arXiv:2405.19597"
    learning_rate = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern not in PATTERNS:
            raise ValueError(f"{self.name}: pattern is one of {', '.join(PATTERNS)}, got {self.pattern!r}")
        if isinstance(self.d, bool) or not isinstance(self.d, int) or self.d < 0:
            raise ValueError(f"{self.name}: d, the diagonals on each side, is a whole number >= 0, got {self.d!r}")
        if self.pattern == "plain" and self.d:
            raise ValueError(f"{self.name}: the plain pattern has d=0, got d={self.d}; or take pattern='banded'")

    def check(self, n: int, m: int) -> None:
        if self.d >= min(n, m):
            raise ValueError(
                f"{self.describe()}: d={self.d} must be below min(n, m) = {min(n, m)} of a {n} x {m} weight"
            )

    def entries(self, k: int) -> int:
        return k * (2 * self.d + 1) - self.d * (self.d + 1)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"M": zeros(self.entries(min(n, m)))}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        found = super().constants(W)
        return {**found, "places": self.places_of_M(min(W.shape)).to(found["S"].device)}

    def places_of_M(self, k: int) -> Tensor:
        """Where the entries of M (k, k) stand: i k + j for row i, column j, ascending."""
        if self.pattern == "random":
            order = torch.randperm(k * k, generator=torch.Generator().manual_seed(self.seed))
            return order[: self.entries(k)].sort().values
        i, j = torch.arange(k).unsqueeze(1), torch.arange(k).unsqueeze(1) + torch.arange(-self.d, self.d + 1)
        return (i * k + j)[(j >= 0) & (j < k)]

    def phi(self, W: Expr, p: Params) -> Expr:
        k = min(W.shape)
        M = Sparse(p.places, p.M, (k, k))
        return self.between(W, p, Diag(p.S) + M, M)

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """U (S + t M) V^T."""
        return self.phi(W, p.replace(M=t * p.M))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        terms = self.constants(W)
        inside = terms["U"].T @ (W_star.dense() - W.dense()) @ terms["Vt"].T
        return {"M": inside.flatten()[terms["places"]]}
