"""transformers' Conv1D (GPT-2): W = weight, rows are the inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from subspace_tuning.weights.layer import LayerWeight


class Conv1DWeight(LayerWeight):
    plain = (Conv1D,)

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.nx, layer.nf

    def dense(self) -> Tensor:
        return self.layer.weight

    def forward(self, x: Any) -> Tensor:
        return self.layer(x.contiguous())  # Conv1D views its input

    def without_bias(self, x: Any) -> Tensor:
        return x @ self.layer.weight

    def as_stored(self, W: Tensor) -> Tensor:
        return W
