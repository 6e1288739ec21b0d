"""PaFi: train the entries of W that are smallest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Start, constant
from subspace_tuning.method.registry import register
from subspace_tuning.methods.reconstruct.masked import Masked, largest


@register("pafi")
@dataclass(frozen=True)
class PaFi(Masked):
    """phi(W) = W + M o V, M_ij = 1 where |W_ij| is among the k smallest.

    k = share * n m numbers are trained; the mask is the same for every task. The paper ranks all weights of the network
    together; here each weight keeps its own share. The places follow from W but are stored with the numbers, because W
    in a lower precision has other ties.
    Source: arXiv:2305.16742, section 3.1.
    """

    category = "reconstruction"
    mode = "2: singular vectors, element-wise"
    formula = "max(1, round(share n m))"
    paper = "arXiv:2305.16742"
    learning_rate = 1e-3

    def stored(self, n: int, m: int) -> dict[str, Start]:
        return {"places": constant("places", self.kept(n, m))._replace(dtype=torch.int64)}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        return {"places": largest(-W.dense().abs(), self.kept(*W.shape))}
