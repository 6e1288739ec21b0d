"""A module with a bias and no matrix that methods know: it carries biases only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from subspace_tuning.weights.layer import LayerWeight, Unsupported


class BiasOnly(LayerWeight):
    """A layer of which only the bias is tuned: layer norms and the like."""

    holds_matrix = False

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        m = layer.bias.numel()
        return m, m

    def dense(self) -> Tensor:
        raise Unsupported(f"{type(self.layer).__name__} holds no matrix")
