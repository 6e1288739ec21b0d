"""Layers that carry a bias and no matrix: norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from subspace_tuning.weights.layer import LayerWeight, Unsupported


class BiasOnly(LayerWeight):
    """A layer of which only the bias is tuned: y + (b - own), m = len(b), along the dimension of the features."""

    holds_matrix = False

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        features_of(layer)
        m = layer.bias.numel()
        return m, m

    @property
    def own_bias(self) -> Tensor | None:
        return self.layer.bias.flatten()

    def forward(self, x: Any) -> Tensor:
        return self.unfinish(self.layer(x))

    def unfinish(self, y: Tensor) -> Tensor:
        if self.layer.bias.dim() > 1:
            return y.flatten(-self.layer.bias.dim())
        return y.movedim(features_of(self.layer), -1)

    def finish(self, y: Tensor) -> Tensor:
        if self.layer.bias.dim() > 1:
            return y.unflatten(-1, self.layer.bias.shape)
        return y.movedim(-1, features_of(self.layer))

    def dense(self) -> Tensor:
        raise Unsupported(f"{type(self.layer).__name__} holds no matrix")


def features_of(layer: nn.Module) -> int:
    """The dimension of a layer's output that its bias runs along. Raises ``Unsupported`` where that is not known."""
    if isinstance(layer, _NormBase | nn.GroupNorm) or getattr(layer, "data_format", "") == "channels_first":
        return 1
    if type(layer).__name__ == "SqueezeBertLayerNorm":  # a LayerNorm over the second dimension, and nothing says so
        return 1
    if isinstance(layer, nn.LayerNorm | nn.Linear) or type(layer).__name__.endswith("Norm"):
        return -1
    raise Unsupported(
        f"no method can sit on {type(layer).__name__}: what its bias is added to is not known; known are Linear, "
        "convolutions and norms"
    )


def has_bias(layer: nn.Module) -> bool:
    """Whether a layer's ``bias`` is one: buffers of that name are masks (GPT-Neo)."""
    return isinstance(getattr(layer, "bias", None), Tensor) and "bias" not in layer._buffers
