"""RandLoRA: a full-rank sum of random low-rank matrices, their scales trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Live, Weight, matrix
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.methods.projections import projection, unit_uniform
from subspace_tuning.registry import register


@register("randlora")
@dataclass(frozen=True)
class RandLoRA(Method):
    """phi(W) = W + s sum_j P_j diag(l_j) Q diag(g_j), s = alpha / r, P_j and Q frozen and random.

    For n > m; for n <= m the transpose of each term, so that the trained scales g_j always sit on the shorter side,
    k = min(n, m). N = ceil(k / r) terms make the sum full-rank: P_j in R^{max(n, m) x r}, Q in R^{r x k}, trained
    l in R^{N x r} starting at zero and g in R^{N x k} at 1 / k. P and Q, uniform with variance 1, follow from the seed
    and their shapes and are stored nowhere.

    The trained side of the sum has as many numbers as W, so that its gradient is dense.
    Source: arXiv:2502.00987.
    """

    r: int = 8
    alpha: float = 160.0
    seed: int = 0

    category = "extension"
    formula = "N (r + k)"
    paper = "arXiv:2502.00987"
    rebuilds = True

    def sizes(self, n: int, m: int) -> dict[str, int]:
        return {"N": -(-min(n, m) // self.r)}

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        N, k = self.sizes(n, m)["N"], min(n, m)
        return {"l": zeros(N, self.r), "g": Start((N, k), lambda t, _: t.fill_(1 / k))}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        (n, m), like = W.shape, W.dense()
        N = self.sizes(n, m)["N"]
        P = projection(self.seed, 0, (max(n, m), N * self.r), unit_uniform, like)
        return {"P": P, "Q": projection(self.seed, 1, (self.r, min(n, m)), unit_uniform, like)}

    def phi(self, W: Expr, p: Params) -> Expr:
        n, m = W.shape
        P, side = p.P.numbers, Live.of(_scaled, p.l.numbers, p.Q.numbers, p.g.numbers)
        dW = matrix(P) @ side if n > m else matrix(Live.of(torch.t, side)) @ Live.of(torch.t, P)
        return W + self.alpha / self.r * dW


def _scaled(l: Tensor, Q: Tensor, g: Tensor) -> Tensor:  # noqa: E741  the paper's lambda
    """diag(l_j) Q diag(g_j), one below the other: (N r, k)."""
    return (l.unsqueeze(2) * Q * g.unsqueeze(1)).flatten(0, 1)
