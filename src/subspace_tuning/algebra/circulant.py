"""Block-circulant matrices."""

from __future__ import annotations

from math import log2
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.kernels import Bilinear, bilinear
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide


class Circulant(Leaf):
    """Circulant blocks C(w_ij) in R^{b x b}, C(w)[p, q] = w[(p - q) mod b], of kernels w (N, M, b): (N b, M b).

    Rows meet it in the frequencies of each block, where it is N M products for each: y_j = sum_i corr(x_i, w_ij).
    """

    def __init__(self, w: Tensor | Live):
        self.numbers = w
        N, M, b = w.shape
        self.shape = (N * b, M * b)

    def dense(self) -> Tensor:
        w = wide(now(self.numbers))
        p = torch.arange(w.shape[-1], device=w.device)
        return w[:, :, (p.unsqueeze(1) - p) % len(p)].transpose(1, 2).reshape(self.shape)

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        return plus(bilinear(x, now(self.numbers), CORRELATION), bias)

    @property
    def trainable(self) -> int:
        return self.numbers.numel() if self.numbers.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        N, M, b = self.numbers.shape
        once = 4 * N * M * (b // 2 + 1) + round(1.25 * sum(self.shape) * log2(2 * b))  # half the operations a row
        return Factor("sparse", *self.shape, self.trainable if training else 0, entries=once)


def _correlated(x: Tensor, w: Tensor) -> Tensor:
    """y_j[q] = sum_i,p x_i[p] w_ij[p - q]: (..., N b), (N, M, b) -> (..., M b)."""
    return _blocks_of(torch.einsum("...nf,nmf->...mf", _frequencies(x, w), torch.fft.rfft(wide(w)).conj()), x, w)


def _convolved(g: Tensor, w: Tensor) -> Tensor:
    """dx_i[p] = sum_j,q g_j[q] w_ij[p - q]: (..., M b), (N, M, b) -> (..., N b)."""
    return _blocks_of(torch.einsum("...mf,nmf->...nf", _frequencies(g, w), torch.fft.rfft(wide(w))), g, w)


def _kernels(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
    """dw_ij[t] = sum_q x_i[q + t] g_j[q], over all rows too: (N, M, b)."""
    D = torch.einsum("tnf,tmf->nmf", _frequencies(_rows(x), w), _frequencies(_rows(g), w).conj())
    return torch.fft.irfft(D, w.shape[-1]).to(w.dtype)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _frequencies(x: Tensor, w: Tensor) -> Tensor:
    """Of each block: (..., N b) -> (..., N, b // 2 + 1)."""
    return torch.fft.rfft(wide(x).unflatten(-1, (-1, w.shape[-1])))


def _blocks_of(Y: Tensor, like: Tensor, w: Tensor) -> Tensor:
    return torch.fft.irfft(Y, w.shape[-1]).flatten(-2).to(like.dtype)


CORRELATION = Bilinear(_correlated, _convolved, _kernels)
