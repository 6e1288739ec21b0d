"""Spectral Adapter: tune the top singular vectors, by addition or by rotation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Diag, Expr, Live
from subspace_tuning.linalg.powers import rotation_power
from subspace_tuning.linalg.svd import cayley, skew
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnTop


@register("spectral")
@dataclass(frozen=True)
class Spectral(OnTop):
    """phi(W) = [U_r + A, U_rest] S [V_r + B^T, V_rest]^T = W + A S_r V_r^T + (U_r + A) S_r B.

    A in R^{n x r} and B in R^{r x m} start at zero.
    Source: arXiv:2405.13952; arXiv:2407.05417, eq. (37).
    """

    category = "combination"
    pairs = ()  # A and B stand in two products
    formula = "r (n + m)"
    paper = "arXiv:2405.13952"
    learning_rate = 3e-4  # A and B meet the largest singular values

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": zeros(n, self.r), "B": zeros(self.r, m)}

    def phi(self, W: Expr, p: Params) -> Expr:
        S = Diag(p.S)
        return W + p.A @ S @ p.Vt + Dense(p.U.numbers + p.A.numbers) @ S @ p.B


@register("spectral_rotation")
@dataclass(frozen=True)
class SpectralRotation(OnTop):
    """phi(W) = [U_r R_U, U_rest] S [V_r R_V, V_rest]^T = W + U_r (R_U S_r R_V^T - S_r) V_r^T.

    R_U, R_V in R^{r x r} are orthogonal, in Cayley form (I - Q) (I + Q)^{-1}; each skew-symmetric Q is held as the
    r (r - 1) / 2 numbers above its diagonal (u and v), where the authors hold r^2.
    Source: arXiv:2405.13952.
    """

    category = "combination"
    formula = "r (r - 1)"
    paper = "arXiv:2405.13952"
    least_r = 2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        free = self.r * (self.r - 1) // 2
        return {"u": zeros(free), "v": zeros(free)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + p.U @ Live.of(_turned, p.u, p.v, p.S) @ p.Vt

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """W + U_r (R_U^t S_r R_V^{-t} - S_r) V_r^T, both rotations by t times their angles."""
        return W + p.U @ Live.of(_turned_t, p.u, p.v, p.S, t) @ p.Vt


def _turned(u: Tensor, v: Tensor, S: Tensor) -> Tensor:
    """R_U S R_V^T - S, (r, r)."""
    R_U, R_V = (cayley(skew(q, len(S))) for q in (u, v))
    return R_U * S @ R_V.T - torch.diag(S)


def _turned_t(u: Tensor, v: Tensor, S: Tensor, t: float) -> Tensor:
    """R_U^t S R_V^{-t} - S, (r, r)."""
    U, V = (rotation_power(-skew(q, len(S)), t) for q in (u, v))  # R^t - I
    return U * S + S.unsqueeze(1) * V.T + U * S @ V.T
