"""WaveFT: a few wavelet coefficients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import HAAR, Expr, Transformed, Weight
from subspace_tuning.method import Params
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.spectra import FewCoefficients


@register("waveft")
@dataclass(frozen=True)
class WaveFT(FewCoefficients):
    """phi(W) = W + alpha IDWT(F), F in R^{n x m} with c at ``frequencies`` random places, else zero.

    IDWT is one level of the inverse Haar transform in two dimensions, which PEFT calls db1: F holds sums and
    differences of pairs of rows and of columns, in four bands; of an odd number the last has a zero beside it, which is
    cut off. c starts at zero. The places follow from the seed, as PEFT draws them; like PEFT's, an F that is drawn as
    sums of rows and differences of columns is taken for differences of rows and sums of columns.
    Source: arXiv:2505.12532, section 3.
    """

    alpha: float = 25.0

    paper = "arXiv:2505.12532"
    learning_rate = 1e-2

    def constants(self, W: Weight) -> dict[str, Tensor]:
        n, m = W.shape
        places = super().constants(W)["places"]
        u, v, half_n, half_m = places // m, places % m, HAAR.size(n) // 2, HAAR.size(m) // 2
        mixed = (u < half_n) != (v < half_m)
        u = torch.where(mixed, (u + half_n) % (2 * half_n), u)
        v = torch.where(mixed, (v + half_m) % (2 * half_m), v)
        return {"places": u * 2 * half_m + v}

    def phi(self, W: Expr, p: Params) -> Expr:
        return W + self.alpha * Transformed(p.places, p.c, W.shape, HAAR)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """The coefficients of W* - W; the sum and the difference of an odd last row and nothing share one."""
        (n, m), D = W.shape, (W_star.dense() - W.dense()) / self.alpha
        places = self.constants(W)["places"]
        rows, cols = places // HAAR.size(m), places % HAAR.size(m)
        found = HAAR.into(HAAR.into(D).T).T.flatten()[places]
        rows, cols = (torch.where(at == size, size // 2, at) for at, size in ((rows, n), (cols, m)))
        halved = (rows == n // 2) * (n % 2) + (cols == m // 2) * (m % 2)
        _, which, sharing = (rows * m + cols).unique(return_inverse=True, return_counts=True)
        return {"c": found * 2**halved / sharing[which]}
