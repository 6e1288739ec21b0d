"""The decompositions that methods start from: deterministic, in single precision or better, on any device.

On the meta device they give shapes without numbers, which is all that counting parameters needs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from subspace_tuning.algebra.precision import wide
from subspace_tuning.linalg.fingerprint import fingerprint, laid_out

ROUNDS = 40  # of filtering; after that many the Gram matrix's own eigenvectors are cheaper
DEGREE, GROWTH = 20, 1e5  # of a filter, at most: its degree, and how much more one direction grows than another
SINGLE = 1e-5  # the tolerance from which on rounding in single precision does not count


class SVD(NamedTuple):
    """W = U diag(S) V^T, or some of its terms: U (n, k), S (k,) descending, Vt (k, m)."""

    U: Tensor
    S: Tensor
    Vt: Tensor

    def top(self, r: int) -> SVD:
        """The terms of the r largest singular values."""
        return self._terms(slice(None, r))

    def tail(self, r: int) -> SVD:
        """The terms of all but the r largest singular values."""
        return self._terms(slice(r, None))

    def bottom(self, r: int) -> SVD:
        """The terms of the r smallest singular values."""
        return self._terms(slice(len(self.S) - r, None))

    def _terms(self, which: slice) -> SVD:
        return SVD(self.U[:, which].clone(), self.S[which].clone(), self.Vt[which].clone())  # free of the whole

    def to(self, dtype: torch.dtype) -> SVD:
        """Singular vectors in another precision; singular values stay in single precision or better."""
        return SVD(self.U.to(dtype), self.S, self.Vt.to(dtype))


def svd(W: Tensor, r: int | None = None) -> SVD:
    """The singular value decomposition of W (n, m), or its r largest terms.

    The largest entry of each column of U is positive, so that every machine finds the same signs.
    """
    whole = _whole(W)
    return whole if r is None else whole.top(r)


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # of a tensor, while it lives and stays as it is


def _whole(W: Tensor) -> SVD:
    if W.is_meta:
        return SVD(*torch.linalg.svd(wide(W), full_matrices=False))
    now = fingerprint(str(W.dtype), laid_out(W))  # a version does not tell what is written to .data
    before, found = _known.get(W, ("", None))
    if found is None or before != now:
        with torch.no_grad():
            found = SVD(*_signed(*torch.linalg.svd(finite(wide(W)), full_matrices=False)))
        _known[W] = (now, found)
    return found


def finite(W: Tensor) -> Tensor:
    """W. Raises ValueError where it holds numbers that are none."""
    if not torch.isfinite(W).all():
        n, m = W.shape
        raise ValueError(f"this weight of {n} x {m} holds NaNs or infinities: it has no singular vectors to start from")
    return W


def _signed(U: Tensor, S: Tensor, Vt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    peaks = U.gather(0, U.abs().argmax(0, keepdim=True)) if U.numel() else U[:1]
    signs = torch.where(peaks < 0, -1.0, 1.0).to(U.dtype)
    return U * signs, S, Vt * signs.T


def truncated_svd(M: Tensor, r: int, tolerance: float = 1e-6, seed: int = 0) -> SVD:
    """The r largest terms of the SVD of M (n, m), found at random from a seed, their error verified.

    The squares of the returned singular values fall short of those of the exact ones by at most ``tolerance`` times
    ||M||_F^2, all r together; a random subspace is filtered until that is proven. What is left outside the subspace
    bounds the shortfall and often suffices; else ``_proven`` does. The same seed gives the same bits.
    """
    M = wide(M)
    k, width = min(M.shape), 2 * r + 8
    if M.is_meta or k <= 2 * width:
        return svd(M, r)
    if M.shape[0] > M.shape[1]:
        U, S, Vt = truncated_svd(finite(M).T, r, tolerance, seed)
        return SVD(*_signed(Vt.T, S, U.T))
    start = torch.randn(M.shape[1], width, generator=torch.Generator().manual_seed(seed)).to(M)
    Q, _ = torch.linalg.qr(finite(M) @ start)
    B, energy = Q.T @ M, _energy(M)
    if energy - _energy(B) > tolerance * energy:
        exact = M if tolerance >= SINGLE else M.double()
        B = (Q := _filtered(_gram(exact), Q, r, tolerance * energy)).T @ M
    U, S, Vt = torch.linalg.svd(B, full_matrices=False)
    return SVD(*_signed(Q @ U[:, :r], S[:r], Vt[:r]))


def _energy(M: Tensor) -> float:
    return torch.linalg.vecdot(M, M).sum(dtype=torch.float64).item()


def _gram(M: Tensor, out: Tensor | None = None) -> Tensor:
    """M M^T for M (n, m), each half of it computed once."""
    n = len(M)
    out = M.new_empty(n, n) if out is None else out
    if n <= 256:
        return torch.mm(M, M.T, out=out)
    h = n // 2
    torch.mm(M[:h], M[h:].T, out=out[:h, h:])
    out[h:, :h] = out[:h, h:].T
    _gram(M[:h], out[:h, :h])
    _gram(M[h:], out[h:, h:])
    return out


def _filtered(G: Tensor, Q: Tensor, r: int, allowed: float) -> Tensor:
    """r orthonormal vectors, U (n, r), with tr(U^T G U) proven to be largest but for ``allowed``; from Q (n, l).

    Chebyshev polynomials of G, bounded where the smaller eigenvalues lie, raise the larger ones in Q.
    """
    dtype, Q = Q.dtype, Q.to(G)
    for _ in range(ROUNDS):
        GQ = G @ Q
        found, turn = torch.linalg.eigh(Q.T @ GQ)
        Q, GQ = Q @ turn, GQ @ turn
        U, top, cut = Q[:, -r:], found[-r:], found[0].clamp_min(found[-1] * torch.finfo(G.dtype).eps).item()
        left = (GQ[:, -r:] - U * top).square().sum(0)
        missing = (left / (top - cut).clamp_min(torch.finfo(G.dtype).tiny)).max().item()  # to first order
        if missing <= allowed / (4 * r) and _proven(G, U, top, allowed):
            return U.to(dtype)
        short = min(max(math.sqrt(8 * r * missing / allowed), 4.0), GROWTH)  # how much the last direction has to grow
        degree = min(_degree(short, top[0].item() / cut), _degree(GROWTH, top[-1].item() / cut))
        Q, _ = torch.linalg.qr(_chebyshev(G, Q, GQ, cut, degree))
    return torch.linalg.eigh(G).eigenvectors[:, -r:].to(dtype)


def _degree(growth: float, x: float) -> int:
    """The least d with T_d(2 x - 1) >= growth."""
    return min(DEGREE, math.ceil(math.acosh(growth) / math.acosh(max(2 * x - 1, 1 + 1e-6))))


def _chebyshev(G: Tensor, Q: Tensor, GQ: Tensor, cut: float, degree: int) -> Tensor:
    """T_d(2 G / cut - I) Q: within +-1 times what eigenvalues of G below ``cut`` hold, growing fast above."""
    before, now = Q, GQ * (2 / cut) - Q
    for _ in range(degree - 1):
        before, now = now, torch.addmm(before + 2 * now, G, now, beta=-1, alpha=4 / cut)
    return now


def _proven(G: Tensor, U: Tensor, found: Tensor, allowed: float) -> bool:
    """Whether the r largest eigenvalues of G (n, n) add up to at most sum(found) + allowed, found (r,) ascending.

    After Ky Fan, they add up to at most r c + tr(Z) for every c and Z >= 0 with c I + Z - G >= 0. Here Z lies in the
    span of the orthonormal U (n, r), and a Cholesky factorisation shows the rest.
    """
    r = len(found)
    counts = torch.arange(1, r + 1, device=G.device)
    level = ((found.cumsum(0) + allowed / 2) / counts).min()  # sum of max(found, level) = sum(found) + allowed / 2
    lift = (found + allowed / (2 * r) - level).clamp_min(0)
    rest = torch.addmm(G, U * lift, U.T, beta=-1)
    rest.diagonal().add_(level)
    return _is_positive(rest)


def _is_positive(A: Tensor, block: int = 256) -> bool:
    """Whether the symmetric A is positive definite: whether it has a Cholesky factorisation. What A holds is lost."""
    for start in range(0, len(A), block):
        end = start + block
        L, failed = torch.linalg.cholesky_ex(A[start:end, start:end])
        if failed:
            return False
        X = torch.linalg.solve_triangular(L, A[start:end, end:], upper=False)
        for k in range(0, X.shape[1], block):  # what stands below the diagonal is not needed
            A[end + k : end + k + block, end + k :].addmm_(X[:, k : k + block].T, X[:, k:], alpha=-1)
    return True


def rank_of_energy(S: Tensor, energy: float) -> int:
    """The least k with s_1^2 + ... + s_k^2 >= energy * sum(s^2), for S (k,) descending; rounding counts as zero."""
    lost = S.double().square().flip(0).cumsum(0).flip(0)  # lost[k]: what the terms from k on hold
    enough = lost <= (1 - energy + len(S) * torch.finfo(S.dtype).eps ** 2) * lost[:1]
    return int(enough.to(torch.uint8).argmax()) if enough.any() else len(S)


def qr(W: Tensor) -> tuple[Tensor, Tensor]:
    """W = Q R for W (n, m): Q (n, k) orthonormal, R (k, m) upper triangular with a diagonal >= 0."""
    Q, R = torch.linalg.qr(wide(W) if W.is_meta else finite(wide(W)))
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).to(Q.dtype)
    return Q * signs, R * signs.unsqueeze(1)


def skew(q: Tensor, r: int) -> Tensor:
    """The skew-symmetric Q (r, r), Q = -Q^T, with the r (r - 1) / 2 numbers q above its diagonal."""
    rows, cols = torch.triu_indices(r, r, 1, device=q.device)
    upper = q.new_zeros(r, r).index_put((rows, cols), q)
    return upper - upper.T


def cayley(Q: Tensor) -> Tensor:
    """The orthogonal (I + Q)^-1 (I - Q) of a skew-symmetric Q (r, r)."""
    Q = wide(Q)
    eye = torch.eye(len(Q), dtype=Q.dtype, device=Q.device)
    return torch.linalg.solve(eye + Q, eye - Q)
