"""Super-Tuning: train the entries of W that are largest."""

from dataclasses import dataclass

from torch import Tensor

from subspace_tuning.method.registry import register
from subspace_tuning.methods.reconstruct.masked import MaskedBySize


@register("supertuning")
@dataclass(frozen=True)
class SuperTuning(MaskedBySize):
    """phi(W) = W + M o V, M_ij = 1 where |W_ij| is among the k largest.

    k = share * n m numbers are trained. SHiRA's mask of magnitudes, by a share instead of a rank; PaFi's mirror image,
    which PEFT calls select_top=False. Supra, its hybrid with LoRA, is `supertuning | lora`. The places are stored.
    Source: arXiv:2607.09287.
    """

    share: float = 0.01

    paper = "arXiv:2607.09287"

    def scores(self, W: Tensor) -> Tensor:
        return W.abs()
