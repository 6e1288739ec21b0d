"""RandLoRA: a full-rank sum of random low-rank matrices, their scales trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Live, Weight, matrix
from subspace_tuning.linalg.nearest import hadamard_low_rank
from subspace_tuning.method import Method, Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.projections import projection, unit_uniform


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
        (n, m), like = W.shape, W.like
        N = self.sizes(n, m)["N"]
        P = projection(self.seed, 0, (max(n, m), N * self.r), unit_uniform, like)
        return {"P": P, "Q": projection(self.seed, 1, (self.r, min(n, m)), unit_uniform, like)}

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """Exact for what the method reaches, where P has no more columns than rows.

        P^+ dW / s is all Q o l_j g_j^T below each other, of which each gives its nearest rank one. Where that misses
        most of dW, as P^+ magnifies what is out of reach, a search does better from where training starts.
        """
        n, m = W.shape
        c, N, s = self.constants(W), self.sizes(n, m)["N"], self.alpha / self.r
        D = (W_star.dense() - W.dense()) / s
        D = D if n > m else D.T
        Y = torch.linalg.lstsq(c["P"], D).solution.view(N, self.r, -1)
        pairs = [hadamard_low_rank(c["Q"], part, 1) for part in Y]
        l, g = torch.stack([A[:, 0] for A, _ in pairs]), torch.stack([B[0] for _, B in pairs])  # noqa: E741
        missed = D - c["P"] @ _scaled(l, c["Q"], g)
        return {"l": l, "g": g} if 2 * missed.square().sum() < D.square().sum() else super().project(W, W_star)

    def phi(self, W: Expr, p: Params) -> Expr:
        n, m = W.shape
        P, side = p.P.numbers, Live.of(_scaled, p.l.numbers, p.Q.numbers, p.g.numbers)
        dW = matrix(P) @ side if n > m else matrix(Live.of(torch.t, side)) @ Live.of(torch.t, P)
        return W + self.alpha / self.r * dW


def _scaled(l: Tensor, Q: Tensor, g: Tensor) -> Tensor:  # noqa: E741  the paper's lambda
    """diag(l_j) Q diag(g_j), one below the other: (N r, k)."""
    return (l.unsqueeze(2) * Q * g.unsqueeze(1)).flatten(0, 1)
