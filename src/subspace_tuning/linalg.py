"""The decompositions that methods start from: deterministic, in single precision or better, on any device.

On the meta device they give shapes without numbers, which is all that counting parameters needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    U, S, Vt = torch.linalg.svd(wide(W), full_matrices=False)
    peaks = U.gather(0, U.abs().argmax(0, keepdim=True)) if U.numel() else U[:1]
    signs = torch.where(peaks < 0, -1.0, 1.0).to(U.dtype)
    whole = SVD(U * signs, S, Vt * signs.T)
    return whole if r is None else whole.top(r)


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
