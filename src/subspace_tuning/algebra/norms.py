"""Norms that form nothing of W's size: of the columns of W + L R, L and R thin, and of L R itself."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Expr
from subspace_tuning.algebra.factors import Dense, Diag
from subspace_tuning.algebra.frozen import Weight
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.precision import wide, without_autocast


def column_norms(W: Expr, L: Tensor | Live, R: Tensor | Live, own: Tensor | Live, detach: bool = True) -> Live:
    """c (m,), c_j the norm of column j of W + L R, for L (n, r), R (r, m) and the norms ``own`` (m,) of a frozen W.

    Above zero: where W's column and that of L R nearly cancel, or both are zero, as much as rounding might have left.
    c_j^2 = ||W_j||^2 + 2 (L^T W)_j . R_j + R_j^T (L^T L) R_j, where L^T W is the frozen layer's forward applied to the
    r rows of L^T: nothing of W's size is formed. Where W is an expression, it is. With ``detach`` no gradient enters c.
    """

    def norms() -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            squares, least = _squares(W, now(L), now(R), now(own)), torch.finfo(now(own).dtype)
            return squares.maximum((least.eps * now(own).square()).clamp_min(least.tiny)).sqrt()

    return Live(norms, (own,) if detach else (L, R), torch.empty(W.shape[1], device="meta"))


def _squares(W: Expr, L: Tensor, R: Tensor, own: Tensor) -> Tensor:
    own = wide(own)
    L, R = L.to(own.dtype), R.to(own.dtype)
    with without_autocast(L):
        if not isinstance(W, Weight):
            return (W.dense().to(own.dtype) + L @ R).square().sum(0)
        crossed = W.apply(L.T.to(W.dtype)).to(own.dtype)
        return own.square() + 2 * (crossed * R).sum(0) + (R * (L.T @ L @ R)).sum(0)


def frobenius(E: Expr, least: float) -> Live:
    """||E||_F (1,), at least ``least``; of E = L R by ||L R||_F^2 = sum((L^T L) o (R R^T)), (k, k) for L (n, k)."""

    def norm() -> Tensor:
        pair = E.factors()
        if pair is None:
            squares = wide(E.dense()).square().sum()
        else:
            L, R = map(wide, pair)
            with without_autocast(L):
                squares = ((L.T @ L) * (R @ R.T)).sum()
        return squares.clamp_min(least**2).sqrt().unsqueeze(0)

    sources = tuple(leaf.numbers for leaf in E.leaves() if isinstance(leaf, Dense | Diag))
    return Live(norm, sources, torch.empty(1, device="meta"))
