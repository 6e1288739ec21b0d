"""Numbers at fixed places of another basis, Fourier's or Haar's, that meet their rows by fast transforms."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.kernels import Bilinear, bilinear
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide
from subspace_tuning.algebra.sparse import dots, met


class Basis(NamedTuple):
    """Rows into a basis and back: back is the transpose of into, or its conjugate's real part."""

    into: Callable[[Tensor], Tensor]  # (..., n) -> (..., n'), n' = size(n)
    back: Callable[[Tensor, int], Tensor]  # (..., m'), m -> (..., m)
    size: Callable[[int], int]


class Transformed(Leaf):
    """Re T_n F T_m^T in R^{n x m}, T the transform of a basis, F (n', m') with ``values`` (k,) at ``places`` (k,).

    Place u m' + v is row u, column v. Rows are transformed, meet k numbers, and are transformed back; F is never laid
    out.
    """

    def __init__(self, places: Tensor | Live, values: Tensor | Live, shape: tuple[int, int], basis: Basis):
        self.places, self.values, self.shape, self.basis = places, values, shape, basis

    def dense(self) -> Tensor:
        values = wide(now(self.values))
        return self.apply(torch.eye(self.shape[0], dtype=values.dtype, device=values.device))

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        places, into, (n, m) = now(self.places), self.basis.into, self.shape
        rows, cols = places // self.basis.size(m), places % self.basis.size(m)

        def between(x: Tensor, values: Tensor, rows: Tensor, cols: Tensor, m: int) -> Tensor:
            y = met(into(wide(x)), wide(values), rows, cols, self.basis.size(m))
            return self.basis.back(y, m).to(x.dtype)

        def by_values(x: Tensor, g: Tensor, values: Tensor) -> Tensor:
            return dots(into(wide(x)), rows, into(wide(g)), cols).real.to(values.dtype)

        maps = Bilinear(
            lambda x, v: between(x, v, rows, cols, m),
            lambda g, v: between(g, v, cols, rows, n),
            by_values,
        )
        return plus(bilinear(x, now(self.values), maps), bias)

    @property
    def trainable(self) -> int:
        return self.values.numel() if self.values.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        n, m = self.shape
        once = 2 * self.values.numel() + round(2.5 * (n * log2(2 * n) + m * log2(2 * m)))  # half the operations a row
        return Factor("sparse", n, m, self.trainable if training else 0, entries=once)


def _fourier(x: Tensor) -> Tensor:
    return torch.fft.fft(x, norm="ortho")


def _fourier_back(Z: Tensor, m: int) -> Tensor:
    return torch.fft.fft(Z, norm="ortho").real


def _even(n: int) -> int:
    return n + n % 2


def _haar(x: Tensor) -> Tensor:
    """Sums, then differences, of pairs: the last one of an odd number has 0 beside it."""
    pairs = pad(x, (0, x.shape[-1] % 2)).unflatten(-1, (-1, 2))
    left, right = pairs.unbind(-1)
    return torch.cat([left + right, left - right], -1) * 0.5**0.5


def _haar_back(Z: Tensor, m: int) -> Tensor:
    sums, differences = Z.chunk(2, -1)
    return torch.stack([sums + differences, sums - differences], -1).flatten(-2)[..., :m] * 0.5**0.5


FOURIER = Basis(_fourier, _fourier_back, lambda n: n)  # unitary
HAAR = Basis(_haar, _haar_back, _even)  # orthogonal, one level
