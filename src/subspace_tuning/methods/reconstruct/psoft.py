"""PSOFT: rotate W within its principal subspace."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Diag, Expr, Live
from subspace_tuning.linalg.powers import rotation_power, scale_power
from subspace_tuning.linalg.svd import cayley, skew
from subspace_tuning.method import Params, Start, zeros
from subspace_tuning.method.registry import register
from subspace_tuning.methods.spectrum import OnTop


@register("psoft")
@dataclass(frozen=True)
class PSOFT(OnTop):
    """phi(W) = W + U_r (diag(1 + a) R diag(1 + b) - I) S_r V_r^T, R = (I - Q) (I + Q)^{-1} orthogonal.

    U_r S_r V_r^T are the r largest terms of W's singular value decomposition; Q in R^{r x r} is skew-symmetric, held as
    the numbers q above its diagonal; a, b in R^r (alpha - 1, beta - 1 in the paper) start at zero and let R leave
    orthogonality. PEFT also has a scale alpha, which cancels.
    Source: arXiv:2505.11235, eqs. (6)-(8).
    """

    category = "reconstruction"
    mode = "2: singular vectors, nonlinear"
    formula = "r (r - 1) // 2 + 2 r"
    paper = "arXiv:2505.11235"
    least_r = 2

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"q": zeros(self.r * (self.r - 1) // 2), "a": zeros(self.r), "b": zeros(self.r)}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + p.U @ Live.of(_turn, p.q, p.a, p.b) @ Diag(p.S) @ p.Vt

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """W + U_r (diag(1 + a)^t R^t diag(1 + b)^t - I) S_r V_r^T, R^t by t times its angles."""
        return W + p.U @ Live.of(_turn_t, p.q, p.a, p.b, t) @ Diag(p.S) @ p.Vt


def _turn(q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """diag(1 + a) R diag(1 + b) - I, (r, r)."""
    return _stretched(cayley(skew(q, len(a))), a, b)


def _turn_t(q: Tensor, a: Tensor, b: Tensor, t: float) -> Tensor:
    """diag(1 + a)^t R^t diag(1 + b)^t - I, (r, r)."""
    turn = rotation_power(-skew(q, len(a)), t)
    return _stretched(turn + torch.eye(len(a)).to(turn), scale_power(a, t), scale_power(b, t))


def _stretched(R: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """diag(1 + a) R diag(1 + b) - I, (r, r)."""
    return (1 + a).unsqueeze(1) * R * (1 + b) - torch.eye(len(a), dtype=R.dtype, device=R.device)
