"""Layers of a network as frozen weights W in R^{n x m}: one short file a kind of layer, how it meets its rows."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from subspace_tuning.weights.bias import BiasOnly, has_bias
from subspace_tuning.weights.conv import Conv2dWeight
from subspace_tuning.weights.conv1d import Conv1DWeight
from subspace_tuning.weights.embedding import EmbeddingWeight
from subspace_tuning.weights.experts import Experts, ExpertWeight
from subspace_tuning.weights.layer import LayerWeight, Part, Unsupported
from subspace_tuning.weights.linear import LinearWeight
from subspace_tuning.weights.own_forward import OwnForward, check_stored, says_linear, stored_otherwise
from subspace_tuning.weights.quantised import quantised
from subspace_tuning.weights.scaled import scaled
from subspace_tuning.weights.slices import Slice, SliceWeight
from subspace_tuning.weights.written import NotTaken

__all__ = ["LayerWeight", "NotTaken", "Part", "Unsupported", "has_bias", "is_linear", "weight_of"]


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer multiplies its rows with a matrix, however that is kept."""
    return isinstance(layer, nn.Linear | Conv1D) or says_linear(layer)


def weight_of(layer: nn.Module) -> LayerWeight:
    """The layer as a frozen weight. Raises ``Unsupported`` for a layer that has neither a weight matrix nor a bias."""
    if isinstance(layer, nn.Linear):
        return quantised(layer) or scaled(layer) or (OwnForward if stored_otherwise(layer) else LinearWeight)(layer)
    if isinstance(layer, Conv1D):
        check_stored(layer)
        return Conv1DWeight(layer)
    if isinstance(layer, nn.Conv2d) and (Conv2dWeight.over_patches(layer) or not has_bias(layer)):
        check_stored(layer)
        return Conv2dWeight(layer)
    if isinstance(layer, nn.Embedding):
        check_stored(layer)
        if hasattr(layer, "embed_scale"):
            raise Unsupported(
                f"{type(layer).__name__} scales its embeddings in forward, which no method takes account of"
            )
        return EmbeddingWeight(layer)
    if isinstance(layer, Experts):
        return ExpertWeight(layer)
    if isinstance(layer, Slice):
        return SliceWeight(layer, weight_of(layer.host))
    if says_linear(layer):
        return OwnForward(layer)
    if has_bias(layer):
        return BiasOnly(layer)
    raise Unsupported(
        f"no method can sit on {type(layer).__name__}: expected Linear, Conv1D, Conv2d, "
        "Embedding or a layer with a bias"
    )
