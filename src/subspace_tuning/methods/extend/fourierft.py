"""FourierFT: a few Fourier coefficients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import FOURIER, Expr, Transformed, Weight
from subspace_tuning.method import Params
from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.spectra import FewCoefficients


@register("fourierft")
@dataclass(frozen=True)
class FourierFT(FewCoefficients):
    """phi(W) = W + alpha Re(IDFT(F)), F in R^{n x m} with c at ``frequencies`` random places u, v, else zero.

    IDFT is the inverse discrete Fourier transform in two dimensions, 1 / (n m) included. c starts at zero, where the
    paper draws it. The places follow from the seed, as PEFT draws them. Rows meet dW by two fast transforms.
    Source: arXiv:2405.03003, eqs. (2)-(4).
    """

    alpha: float = 300.0

    paper = "arXiv:2405.03003"
    learning_rate = 5e-2

    def phi(self, W: Expr, p: Params) -> Expr:
        n, m = W.shape
        return W + self.alpha / (n * m) ** 0.5 * Transformed(p.places, p.c, (n, m), FOURIER)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """The real parts of W* - W's coefficients; a frequency that is drawn with its mirror image shares them."""
        (n, m), D = W.shape, W_star.dense() - W.dense()
        places = self.constants(W)["places"]
        real = torch.fft.fft2(D, norm="ortho").real.flatten()[places] * (n * m) ** 0.5 / self.alpha
        paired = torch.isin(-(places // m) % n * m + -places % m, places)
        return {"c": torch.where(paired, real, 2 * real)}
