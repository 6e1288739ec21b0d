"""DeLoRA: a low-rank product of bounded norm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Live, Weight
from subspace_tuning.algebra.precision import wide
from subspace_tuning.linalg.nearest import low_rank
from subspace_tuning.method import Method, Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.dropout import check_probability, dropped

LEAST = 1e-4  # of a norm: what is shorter has no direction


@register("delora")
@dataclass(frozen=True)
class DeLoRA(Method):
    """phi(W) = W + N A diag(c) B, c_i = lambda / (r ||a_i|| ||b_i||), N = diag(||W_1||, ..., ||W_n||) of W's rows.

    A in R^{n x r} with columns a_i, B in R^{r x m} with rows b_i starting at zero: a sum of r products of directions,
    all of the weight lambda / r, so that ||N^{-1} (phi(W) - W)||_F <= lambda. lambda = ``bound`` + delta is trained,
    delta (1,) from zero. Norms below 1e-4 count as that, as in PEFT's; at the first step the product grows to its
    bound at once.
    Source: arXiv:2503.18225.
    """

    r: int = 8
    bound: float = 15.0
    dropout: float = 0.0

    category = "extension"
    formula = "r (n + m) + 1"
    paper = "arXiv:2503.18225"
    wide = True
    no_decay = "factors that weight decay makes smaller keep their directions, and these are all that counts here"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability(self.name, self.dropout)
        if not self.bound > 0:
            raise ValueError(f"{self.name}: bound is a number above 0, got {self.bound!r}")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(n, self.r), "B": zeros(self.r, m), "delta": zeros(1)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {"norms": wide(W.dense()).norm(dim=1)}

    def phi(self, W: Expr, p: Params) -> Expr:
        c = Live.of(_weights, p.A.numbers, p.B.numbers, self.bound + p.delta)
        return W + dropped(Diag(p.norms) @ p.A, self.dropout, p) @ Diag(c) @ p.B

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """The nearest product, and its terms turned among each other until all of them have one norm."""
        norms = self.constants(W)["norms"].to(W.dense())
        A, B = low_rank(W_star.dense() - W.dense(), self.r)
        A = torch.where(norms.unsqueeze(1) > 0, A / norms.unsqueeze(1), 0.0)
        A, B = low_rank(A @ B, self.r)
        S = A.square().sum(0)
        Q = alike(S)
        return {"A": A @ Q, "B": Q.T @ B, "delta": (S.sum() - self.bound).unsqueeze(0)}


def _weights(A: Tensor, B: Tensor, bound: Tensor) -> Tensor:
    """c (r,)."""
    a, b = (wide(M).norm(dim=d).clamp_min(LEAST) for M, d in ((A, 0), (B, 1)))
    return bound / (A.shape[1] * a * b)


def alike(S: Tensor) -> Tensor:
    """An orthogonal Q (r, r) for which all entries on the diagonal of Q^T diag(S) Q are the mean of S (r,)."""
    r, mean = len(S), S.mean()
    Q, M = torch.eye(r).to(S), torch.diag(S - mean)
    for i in range(r - 1):  # a rotation with an entry on the other side of the mean brings the i-th one there
        j = i + 1 + int((M.diagonal()[i + 1 :] * -M[i, i].sign()).argmax())
        a, b, c = M[i, i], M[j, j], M[i, j]
        if a == 0 or b == 0:
            continue
        angle = torch.atan((-c + (c * c - a * b).clamp_min(0).sqrt()) / b)
        turn = torch.eye(r).to(S)
        turn[i, i], turn[j, j], turn[j, i], turn[i, j] = angle.cos(), angle.cos(), angle.sin(), -angle.sin()
        Q, M = Q @ turn, turn.T @ M @ turn
    return Q
