"""Nearest matrices of a form, in Frobenius distance: what the projections of methods are made of.

Closed forms where there are any; else least squares over one factor and the other in turn, which never goes uphill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.linalg.svd import truncated_svd

SWEEPS = 500  # at most, over both factors
STILL = 1e-13  # a sweep that gains less than this part of what is sought is the last
Found = TypeVar("Found")


def low_rank(D: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A (n, r), B (r, m) with A B nearest to D (n, m), the singular values shared evenly (Eckart and Young)."""
    U, S, Vt = truncated_svd(D, r)
    root, spare = S.sqrt(), r - len(S)  # columns that D has no directions for
    return pad(U * root, (0, spare)), pad(root.unsqueeze(1) * Vt, (0, 0, 0, spare))


def row_scales(W: Tensor, target: Tensor) -> Tensor:
    """d (n,) with diag(d) W nearest to the target (n, m); 1 for a row of W that is zero."""
    energy = torch.linalg.vecdot(W, W)
    return torch.where(energy > 0, torch.linalg.vecdot(W, target) / energy, 1.0)


def both_scales(W: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """d1 (n,), d2 (m,) with diag(d1) W diag(d2) nearest to the target.

    The better of two ways down, from the best row scales and from the best column scales: neither alone come nearer.
    """
    rows = _both_scales(W, target)
    d2, d1, left = _both_scales(W.T, target.T)
    return rows[:2] if rows[2] <= left else (d1, d2)


def _both_scales(W: Tensor, target: Tensor) -> tuple[Tensor, Tensor, float]:
    """From the best d1 for d2 = 1. What is left of the target, (target - D1 W D2)^2, comes third."""
    W2, T = W.square(), W * target
    whole, left = target.square().sum().item(), float("inf")
    d2 = torch.ones_like(W[0])
    for _ in range(SWEEPS):
        d1 = _quotient(T @ d2, W2 @ d2.square())
        along, energy = T.T @ d1, W2.T @ d1.square()
        d2 = _quotient(along, energy)
        now = whole - 2 * (along @ d2).item() + (energy @ d2.square()).item()
        if left - now <= STILL * whole:
            break
        left = now
    return d1, d2, min(left, now)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, 1.0)


def hadamard_low_rank(W: Tensor, D: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """A (n, r), B (r, m) with W o (A B) near to D: low rank, each entry weighted by the square of W's."""
    W2, T = W.square(), W * D
    whole, left = D.square().sum().item(), float("inf")
    A, _ = low_rank(T, r)
    for _ in range(SWEEPS):
        B = _rows(W2.T, T.T, A).T
        A = _rows(W2, T, B.T)
        now = whole - _gain(W2, T, A, B)
        if left - now <= STILL * whole:
            break
        left = now
    return A, B


def _rows(W2: Tensor, T: Tensor, B: Tensor) -> Tensor:
    """The rows a (n, r) that minimise sum_j W2_ij (a_i . b_j)^2 - 2 T_ij a_i . b_j, for b (m, r)."""
    r = B.shape[1]
    normal = (W2 @ (B.unsqueeze(2) * B.unsqueeze(1)).flatten(1)).view(-1, r, r)
    ridge = torch.finfo(B.dtype).eps * normal.diagonal(dim1=1, dim2=2).sum(1).clamp_min(torch.finfo(B.dtype).tiny)
    normal.diagonal(dim1=1, dim2=2).add_(ridge.unsqueeze(1))
    return torch.linalg.solve(normal, T @ B)


def _gain(W2: Tensor, T: Tensor, A: Tensor, B: Tensor) -> float:
    M = A @ B
    return (2 * T - W2 * M).mul_(M).sum().item()


def in_turn(
    D: Tensor, fit: Callable[[Tensor], tuple[Found, Tensor]], along: Callable[[Tensor], Tensor]
) -> tuple[Found, Tensor]:
    """M + N near to D (n, m), M of one form and N of a linear space, each the best beside the other, again and again.

    fit: a matrix -> how the nearest M is made, and M; along: a matrix -> the nearest N. Returns how M is made, and N.
    """
    N, whole, left = torch.zeros_like(D), D.square().sum().item(), float("inf")
    for _ in range(SWEEPS):
        found, M = fit(D - N)
        N = along(D - M)
        now = (D - M - N).square().sum().item()
        if left - now <= STILL * whole:
            break
        left = now
    return found, N
