"""Where A (n, r) and B (r, m) of a low-rank product may start, given W.

Each gives A0, B0 in the precision of W; a method that starts there adds s ((A0 + A) (B0 + B) - A0 B0), so that
phi(W) = W at first.

    orthogonal   W^T = Q R; A0 = the first r rows of R, B0 those columns of Q    OLoRA, arXiv:2406.01775
    pissa        s A0 B0 = the r largest terms of the SVD, shared evenly         PiSSA, arXiv:2404.02948
    milora       s A0 B0 = the r smallest terms of the SVD, shared evenly        MiLoRA, arXiv:2406.09044
    loram        s A0 B0 = c^2 sines, as long as log_k(r) ||W||_F says           LoRAM, arXiv:2507.06558
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Live
from subspace_tuning.algebra.precision import wide
from subspace_tuning.linalg.store import bottom_svd, top_svd
from subspace_tuning.linalg.svd import SVD, qr
from subspace_tuning.method import Params


class Factors(NamedTuple):
    A0: Tensor
    B0: Tensor


def behind_start(p: Params) -> Params:
    """The parameters with A0 + A for A and B0 + B for B; where more than numbers stands for A, that was done before."""
    if not isinstance(p.A, Dense):
        return p
    return p.replace(**{k: _sum(getattr(p, f"{k}0"), getattr(p, k)) for k in "AB"})


def _sum(start: Dense, added: Dense) -> Live:
    return Live.of(torch.add, start.numbers, added.numbers)


def orthogonal(W: Tensor, r: int, s: float = 1.0) -> Factors:
    """OLoRA decomposes the weight as torch stores it, (m, n): the orthonormal factor stands on the output side."""
    Q, R = qr(W.T)
    return Factors(R[:r].T.to(W.dtype).clone(), Q[:, :r].T.to(W.dtype).clone())


def pissa(W: Tensor, r: int, s: float = 1.0) -> Factors:
    return _even(top_svd(W, r), W, s)


def milora(W: Tensor, r: int, s: float = 1.0) -> Factors:
    return _even(bottom_svd(W, r), W, s)


def _even(terms: SVD, W: Tensor, s: float) -> Factors:
    """U diag(S) V^T = s A0 B0, half of S and s on each side."""
    root = (terms.S / s).sqrt()
    return Factors((terms.U * root).to(W.dtype), (root.unsqueeze(1) * terms.Vt).to(W.dtype))


def loram(W: Tensor, r: int, s: float = 1.0) -> Factors:
    """Sines of r frequencies on both sides, ||s A0 B0||_F^2 = log_k(r) ||W||_F^2, k = min(n, m); r = 1 counts as 2."""
    share = math.log(max(r, 2), max(min(W.shape), 2))
    length = (share * wide(W).square().sum() / r).sqrt() / s  # of each of the r terms
    A, B = (length.sqrt() * sines(size, r).to(length) for size in W.shape)
    return Factors(A.to(W.dtype), B.T.to(W.dtype).contiguous())


def sines(n: int, r: int) -> Tensor:
    """The first r columns of the discrete sine transform, orthonormal, (n, r)."""
    i, j = torch.arange(1, n + 1, dtype=torch.float64), torch.arange(1, r + 1, dtype=torch.float64)
    return (2 / (n + 1)) ** 0.5 * torch.sin(torch.outer(i, j) * (math.pi / (n + 1)))


STARTS: dict[str, Callable[[Tensor, int, float], Factors]] = {
    "orthogonal": orthogonal,
    "pissa": pissa,
    "milora": milora,
    "loram": loram,
}
