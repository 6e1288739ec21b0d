"""FishMask: train the entries of W that matter most to the task."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method.registry import register
from subspace_tuning.methods.reconstruct.masked import MaskedShare, largest


@register("fishmask")
@dataclass(frozen=True)
class FishMask(MaskedShare):
    """phi(W) = W + M o V, M_ij = 1 where the Fisher information F_ij is among the k largest.

    k = share * n m numbers are trained. F is the mean over examples of (d log p(y|x) / dW)^2 with the labels of the
    data (the empirical Fisher information), found by ``calibrate`` before training. The paper ranks all weights of the
    network together; here each weight keeps its own share.
    Source: arXiv:2111.09839, section 3.
    """

    category = "reconstruction"
    mode = "2: singular vectors, element-wise"
    paper = "arXiv:2111.09839"
    learning_rate = 1e-3
    calibration = ("fisher",)

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        k = self.kept(*W.shape)
        return {"places": largest(found["fisher"], k), "v": torch.zeros(k)}
