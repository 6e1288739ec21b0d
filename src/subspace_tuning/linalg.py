"""The decompositions that methods start from: deterministic, in single precision or better, on any device.

On the meta device they give shapes without numbers, which is all that counting parameters needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

POWER_ITERATIONS = 200  # after that many the Gram matrix's own eigenvectors are cheaper


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
    if W.is_inference():  # which does not tell when it changes
        return SVD(*_signed(*torch.linalg.svd(wide(W), full_matrices=False)))
    version, found = _known.get(W, (None, None))
    if found is None or version != W._version:
        with torch.no_grad():
            found = SVD(*_signed(*torch.linalg.svd(wide(W), full_matrices=False)))
        _known[W] = (W._version, found)
    return found


def _signed(U: Tensor, S: Tensor, Vt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    peaks = U.gather(0, U.abs().argmax(0, keepdim=True)) if U.numel() else U[:1]
    signs = torch.where(peaks < 0, -1.0, 1.0).to(U.dtype)
    return U * signs, S, Vt * signs.T


def truncated_svd(M: Tensor, r: int, tolerance: float = 1e-6, seed: int = 0) -> SVD:
    """The r largest terms of the SVD of M (n, m), found at random from a seed, their error verified.

    The squares of the returned singular values fall short of those of the exact ones by at most ``tolerance`` times
    ||M||_F^2, all r together; power iterations go on until that is certain. What is left outside the found subspace
    bounds the shortfall and often suffices; else the exact eigenvalues of the smaller Gram matrix do, which cost far
    less than singular vectors. The same seed gives the same bits.
    """
    M = wide(M)
    k, width = min(M.shape), 2 * r + 8
    if M.is_meta or k <= 2 * width:
        return svd(M, r)
    if M.shape[0] > M.shape[1]:
        U, S, Vt = truncated_svd(M.T, r, tolerance, seed)
        return SVD(*_signed(Vt.T, S, U.T))
    start = torch.randn(M.shape[1], width, generator=torch.Generator().manual_seed(seed)).to(M)
    Q, _ = torch.linalg.qr(M @ start)
    allowed = tolerance * M.square().sum(dtype=torch.float64).item()
    B = Q.T @ M
    if (M - Q @ B).square().sum(dtype=torch.float64).item() > allowed:
        B = (Q := _iterated(M, Q, r, allowed)).T @ M
    U, S, Vt = torch.linalg.svd(B, full_matrices=False)
    return SVD(*_signed(Q @ U[:, :r], S[:r], Vt[:r]))


def _iterated(M: Tensor, Q: Tensor, r: int, allowed: float) -> Tensor:
    """Q (n, l) after as many power iterations as it takes for r dimensions of it to hold all but ``allowed``."""
    gram = sum((part @ part.T for part in map(Tensor.double, M.split(1024, dim=1))), start=M.new_zeros(()).double())
    best, dtype, Q = torch.linalg.eigvalsh(gram)[-r:].sum(), Q.dtype, Q.double()
    for _ in range(POWER_ITERATIONS):
        Q, _ = torch.linalg.qr(gram @ Q)
        if best - torch.linalg.eigvalsh(Q.T @ gram @ Q)[-r:].sum() <= allowed:
            return Q.to(dtype)
    return torch.linalg.eigh(gram).eigenvectors[:, -r:].to(dtype)


def rank_of_energy(S: Tensor, energy: float) -> int:
    """The least k with s_1^2 + ... + s_k^2 >= energy * sum(s^2), for S (k,) descending; rounding counts as zero."""
    lost = S.double().square().flip(0).cumsum(0).flip(0)  # lost[k]: what the terms from k on hold
    enough = lost <= (1 - energy + len(S) * torch.finfo(S.dtype).eps ** 2) * lost[:1]
    return int(enough.to(torch.uint8).argmax()) if enough.any() else len(S)


def qr(W: Tensor) -> tuple[Tensor, Tensor]:
    """W = Q R for W (n, m): Q (n, k) orthonormal, R (k, m) upper triangular with a diagonal >= 0."""
    Q, R = torch.linalg.qr(wide(W))
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


def wide(W: Tensor) -> Tensor:
    """W in single precision or better, as decompositions need it."""
    return W.to(torch.promote_types(W.dtype, torch.float32))
