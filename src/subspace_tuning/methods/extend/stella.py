"""StelLA: the subspaces of a low-rank update, learnt on the Stiefel manifold."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Weight, matrix
from subspace_tuning.linalg.svd import truncated_svd
from subspace_tuning.method import Constants, Params, Seat, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.lora import LowRank

CURVED = ("U", "V")


@register("stella")
@dataclass(frozen=True)
class StelLA(LowRank):
    """phi(W) = W + s U S V^T, U^T U = V^T V = I, s = alpha / r.

    U in R^{n x r} and V in R^{m x r} start as random orthonormal columns, S in R^{r x r} at zero. At each step their
    gradients G become Riemannian, G - U G^T U; the optimiser's own step is projected onto the tangent space and drawn
    back onto the manifold by the polar decomposition. ``scaling`` c (the paper takes the model's width) divides the
    steps of a factor with k rows by sqrt(k / c).
    Source: arXiv:2510.01938 (there with W transposed: U is on the output side).
    """

    scaling: float | None = None

    category = "extension"
    wide = False
    formula = "r (n + m + r)"
    paper = "arXiv:2510.01938"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling is not None and not self.scaling > 0:
            raise ValueError(f"{self.name}: scaling is a number above 0 or none, got {self.scaling!r}")

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {
            "U": Start((n, self.r), _orthonormal),
            "S": zeros(self.r, self.r),
            "V": Start((m, self.r), _orthonormal),
        }

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.s * (self.dropped(p.U, p) @ p.S @ matrix(p.V.numbers.T))

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        U, S, Vt = truncated_svd((W_star.dense() - W.dense()) / self.s, self.r)
        return {"U": U, "S": torch.diag(S), "V": Vt.T}

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        for seat in seats:
            for name in CURVED:
                U = seat.values[name]
                seat.memory[name] = U.detach().clone()
                if U.grad is not None:
                    U.grad -= U @ U.grad.T @ U

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        for seat in seats:
            for name in CURVED:
                U = seat.values[name]
                old = seat.memory.pop(name).to(torch.promote_types(U.dtype, torch.float32))
                move = U - old
                if self.scaling is not None:
                    move /= (len(U) / self.scaling) ** 0.5
                U.copy_(_polar(old + _tangent(old, move)))


def _orthonormal(U: Tensor, _: Constants) -> None:
    torch.nn.init.orthogonal_(U)


def _tangent(U: Tensor, move: Tensor) -> Tensor:
    """The part of a move (n, r) that is tangent to the manifold at U."""
    inner = U.T @ move
    return move - U @ (inner + inner.T) / 2


def _polar(U: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns."""
    left, _, right = torch.linalg.svd(U, full_matrices=False)
    return left @ right
