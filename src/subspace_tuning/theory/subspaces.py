"""What training did to the subspaces of a weight: pure functions of W, dW and factors, none of which is changed.

W (n, m) has n inputs and m outputs; the left singular vectors (columns of U) live among the inputs, the right ones
(rows of V^T) among the outputs. dW is what was added: W' = W + dW.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from subspace_tuning.linalg.svd import SVD, rank_of_energy


class Rotation(NamedTuple):
    """Principal angles in radians, ascending: (r,) on either side."""

    left: Tensor
    right: Tensor


def effective_rank(S: Tensor) -> float:
    """exp(H(p)), p_i = s_i / sum(s): how many singular values S (k,) count, by their entropy.

    Between 1 and the rank; equals the rank where all are alike. Source: Roy and Vetterli, EUSIPCO 2007, definition 1.
    """
    p = S[S > 0].double()
    p = p / p.sum()
    return torch.exp(-(p * p.log()).sum()).item() if len(p) else 0.0


def stable_rank(S: Tensor) -> float:
    """||M||_F^2 / ||M||_2^2 from the singular values S (k,) of M: the rank that small ones barely move.

    Source: Rudelson and Vershynin, arXiv:math/0503442, section 1.
    """
    top = S.double().square()
    return (top.sum() / top.max()).item() if S.numel() and S.max() > 0 else 0.0


def principal_angles(X: Tensor, Y: Tensor) -> Tensor:
    """The angles between the spans of orthonormal X (n, i) and Y (n, j), ascending: (min(i, j),), in [0, pi / 2].

    cos theta = the singular values of X^T Y; small angles by their sines, which cosines cannot resolve.
    Source: Björck and Golub, Math. Comp. 27 (1973), theorems 1 and 2.
    """
    X, Y = (X, Y) if X.shape[1] >= Y.shape[1] else (Y, X)
    X, Y = X.double(), Y.double()
    inner = X.T @ Y
    cos = torch.linalg.svdvals(inner).clamp(0, 1)
    sin = torch.linalg.svdvals(Y - X @ inner).flip(0).clamp(0, 1)
    return torch.where(cos.square() < 0.5, cos.acos(), sin.asin())


def rotation(before: SVD, after: SVD, r: int) -> Rotation:
    """How far the r leading singular subspaces of W turned: principal angles between those of W and of W'."""
    a, b = before.top(r), after.top(r)
    return Rotation(principal_angles(a.U, b.U), principal_angles(a.Vt.T, b.Vt.T))


def similarity(X: Tensor, Y: Tensor) -> Tensor:
    """psi(i, j) = ||X_i^T Y_j||_F^2 / min(i, j), X_i the first i columns: (n, r1), (n, r2) -> (r1, r2), in [0, 1].

    1 where one subspace holds the other, 0 where they are orthogonal: one minus the squared projection distance on the
    Grassmannian, scaled. Random subspaces of R^n come to max(i, j) / n. Source: arXiv:2106.09685, section 7.2, eq. (4).
    """
    held = (X.double().T @ Y.double()).square().cumsum(0).cumsum(1)
    i, j = (torch.arange(1, size + 1, device=X.device) for size in held.shape)
    return held / torch.minimum(i.unsqueeze(1), j.unsqueeze(0))


def amplification(W: Tensor, change: SVD, r: int) -> float:
    """||dW||_F / ||U^T W V||_F with the r leading singular vectors U, V of dW (n, m).

    How much dW strengthens what W held in those directions. Source: arXiv:2106.09685, section 7.3.
    """
    top = change.top(r)
    within = (top.U.T @ W.to(top.U.dtype) @ top.Vt.T).norm()
    return (change.S.norm() / within).item() if within > 0 else float("inf")


class Inside(NamedTuple):
    """Which share of ||dW||_F^2 lies within the leading singular subspaces of W, and what chance would put there."""

    share: float
    chance: float


def inside(W: SVD, dW: Tensor, energy: float = 0.9) -> Inside:
    """||U^T dW V||_F^2 / ||dW||_F^2 with the leading singular vectors U, V of W that hold this share of its energy.

    A reconstruction f(W) works within span(W), an extension adds what lies outside (arXiv:2407.05417); directions of W
    that carry next to nothing are taken as outside. A random dW (n, m) has the share k^2 / (n m).
    """
    k = rank_of_energy(W.S, energy)
    top, whole = W.top(k), dW.double().square().sum()
    held = (top.U.double().T @ dW.double() @ top.Vt.double().T).square().sum()
    n, m = dW.shape
    return Inside((held / whole).item() if whole > 0 else 0.0, k * k / (n * m))


def intruders(before: SVD, after: SVD, k: int = 10, epsilon: float = 0.5) -> list[int]:
    """Which of the k leading left singular vectors of W' are like none of W's: max_i |cos(u_i, u'_j)| < epsilon.

    Here left means the outputs, as torch stores the weight; these are our rows of V^T. Source: arXiv:2410.21228,
    algorithm 1.
    """
    like = (after.Vt[:k].double() @ before.Vt.double().T).abs().amax(1)
    return (like < epsilon).nonzero().flatten().tolist()


def scaled_terms(W: Tensor, terms: SVD, which: list[int], scale: float) -> Tensor:
    """W' + (scale - 1) sum_j s_j u_j v_j^T over some terms of its SVD: W' (n, m) with its intruders scaled down.

    Source: arXiv:2410.21228.
    """
    U, S, Vt = terms.U[:, which], terms.S[which], terms.Vt[which]
    return W + ((scale - 1) * (U * S) @ Vt).to(W.dtype)


class Patterns(NamedTuple):
    """How far factors A (n, r), B (r, m) are from what matrix pattern constraints hold them to; 0 is on the pattern."""

    A_orthonormal: float  # ||A^T A - I||_F
    B_orthonormal: float  # ||B B^T - I||_F
    B_orthogonal: float  # ||B B^T - diag(B B^T)||_F: rows at right angles, of any length
    A_tilt: float  # ||off-diagonal of A^T A||_F / ||A^T A||_F: whatever the scale
    B_tilt: float  # ||off-diagonal of B B^T||_F / ||B B^T||_F


def patterns(A: Tensor, B: Tensor) -> Patterns:
    """The residuals that MPC pushes to zero. Source: arXiv:2407.05417, eqs. (25) and (26)."""
    gram_A, gram_B = (M.double() for M in (A.T @ A, B @ B.T))
    eye = torch.eye(A.shape[1], dtype=torch.float64, device=A.device)
    off_A, off_B = (G - torch.diag(G.diagonal()) for G in (gram_A, gram_B))
    values = ((gram_A - eye).norm(), (gram_B - eye).norm(), off_B.norm())
    tilts = (off.norm() / G.norm().clamp_min(1e-300) for off, G in ((off_A, gram_A), (off_B, gram_B)))
    return Patterns(*(v.item() for v in (*values, *tilts)))
