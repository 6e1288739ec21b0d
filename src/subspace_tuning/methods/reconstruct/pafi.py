"""PaFi: train the entries of W that are smallest."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.method.registry import register
from subspace_tuning.methods.reconstruct.masked import MaskedBySize


@register("pafi")
@dataclass(frozen=True)
class PaFi(MaskedBySize):
    """phi(W) = W + M o V, M_ij = 1 where |W_ij| is among the k smallest.

    k = share * n m numbers are trained; the mask is the same for every task. The paper ranks all weights of the network
    together; here each weight keeps its own share. The places follow from W but are stored with the numbers, because W
    in a lower precision has other ties.
    Source: arXiv:2305.16742, section 3.1.
    """

    paper = "arXiv:2305.16742"

    def scores(self, W: Tensor) -> Tensor:
        return -W.abs()
