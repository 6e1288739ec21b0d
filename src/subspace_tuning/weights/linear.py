"""nn.Linear: W = weight^T, rows are the inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.weights.layer import LayerWeight


class LinearWeight(LayerWeight):
    plain = (nn.Linear,)

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.in_features, layer.out_features

    def dense(self) -> Tensor:
        return self.layer.weight.T

    def without_bias(self, x: Any) -> Tensor:
        return F.linear(x, self.layer.weight)

    def as_stored(self, W: Tensor) -> Tensor:
        return W.T
