"""GraLoRA: low-rank products, block by block."""

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from subspace_tuning.algebra import Blocks, Expr, Regroup, Weight
from subspace_tuning.linalg.nearest import low_rank
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register


@register("gralora")
@dataclass(frozen=True)
class GraLoRA(Method):
    """phi(W) = W + s E, block (i, j) of E is A_ij B_ij for i, j = 1 ... K, s = alpha / r.

    W is cut into K x K blocks; A_ij in R^{n/K x r/K} and B_ij in R^{r/K x m/K}, the latter starting at zero. The A_ij
    of one i lie side by side in A (K, n/K, r), the B_ij of one j below each other in B (K, r, m/K): as many numbers as
    LoRA has, and a rank up to K r. K is the largest common divisor of n, m and r that is at most ``blocks``; with one
    block this is LoRA. PEFT's hybrid with a LoRA beside it is `gralora | lora`.
    Source: arXiv:2505.20355, section 3.
    """

    r: int = 8
    alpha: float = 16.0
    blocks: int = 2

    category = "extension"
    pairs = ()  # A and B are blocks of factors
    formula = "r (n + m)"
    paper = "arXiv:2505.20355"
    wide = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.blocks, bool) or not isinstance(self.blocks, int) or self.blocks < 1:
            raise ValueError(f"{self.name}: blocks is a whole number above 0, got {self.blocks!r}")

    def _blocks(self, n: int, m: int) -> int:
        most = gcd(n, m, self.r)
        return next(d for d in range(min(self.blocks, most), 0, -1) if most % d == 0)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        K = self._blocks(n, m)
        bound = (n // K) ** -0.5
        A = Start((K, n // K, self.r), lambda t, _: t.uniform_(-bound, bound))
        return {"A": A, "B": zeros(K, self.r, m // K)}

    def phi(self, W: Expr, p: Params) -> Expr:
        K = self._blocks(*W.shape)
        return W + self.alpha / self.r * (Blocks(p.A) @ Regroup(K, K, self.r // K, p.B) @ Blocks(p.B))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        K = self._blocks(*W.shape)
        D = (W_star.dense() - W.dense()) * (self.r / self.alpha)
        rows = [[low_rank(block, self.r // K) for block in row.chunk(K, 1)] for row in D.chunk(K, 0)]
        A = [torch.cat([A for A, _ in row], 1) for row in rows]
        B = [torch.cat([B for _, B in column]) for column in zip(*rows, strict=True)]
        return {"A": torch.stack(A), "B": torch.stack(B)}
