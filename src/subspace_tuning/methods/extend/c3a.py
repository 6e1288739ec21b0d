"""C3A: circular convolution."""

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from subspace_tuning.algebra import Circulant, Expr, Weight
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("c3a")
@dataclass(frozen=True)
class C3A(Method):
    """phi(W) = W + C(w) / n, C(w) of circulant blocks C(w_ij)[p, q] = w_ij[(p - q) mod d].

    w in R^{n/d x m/d x d}, starting at zero; d is the largest common divisor of n and m that is at most ``b``. Rows
    meet C(w) by fast Fourier transforms of their blocks; its rank may be full. The division by n is PEFT's.
    Source: arXiv:2407.19342, section 3.
    """

    b: int = 128

    category = "extension"
    formula = "n m / d"
    paper = "arXiv:2407.19342"
    learning_rate = 1e-1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.b, bool) or not isinstance(self.b, int) or self.b < 1:
            raise ValueError(f"{self.name}: the block size b is a whole number above 0, got b={self.b!r}")

    def sizes(self, n: int, m: int) -> dict[str, int]:
        most = gcd(n, m)
        return {"d": next(d for d in range(min(self.b, most), 0, -1) if most % d == 0)}

    def fitted(self, n: int, m: int) -> Method:
        return self.with_fields(b=self.sizes(n, m)["d"])

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        d = self.sizes(n, m)["d"]
        return {"w": zeros(n // d, m // d, d)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + 1 / W.shape[0] * Circulant(p.w)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """The means along the diagonals of each block."""
        (n, m), d = W.shape, self.sizes(*W.shape)["d"]
        blocks = (W_star.dense() - W.dense()).view(n // d, d, m // d, d).transpose(1, 2)
        p, t = torch.arange(d, device=blocks.device).unsqueeze(1), torch.arange(d, device=blocks.device)
        return {"w": n * blocks[:, :, p, (p - t) % d].mean(2)}
