"""Layers of a network as frozen weights W in R^{n x m}: one short file a kind of layer, how it meets its rows."""

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from subspace_tuning.weights.bias import BiasOnly, has_bias
from subspace_tuning.weights.conv import ConvWeight
from subspace_tuning.weights.conv1d import Conv1DWeight
from subspace_tuning.weights.conv_grouped import GroupedWeight
from subspace_tuning.weights.conv_transposed import TransposedWeight
from subspace_tuning.weights.embedding import EmbeddingWeight
from subspace_tuning.weights.experts import Experts, ExpertWeight
from subspace_tuning.weights.layer import LayerWeight, Part, Unsupported
from subspace_tuning.weights.linear import LinearWeight
from subspace_tuning.weights.own_forward import OwnForward, check_stored, says_linear, stored_otherwise
from subspace_tuning.weights.parametrised import refresh
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
    refresh(layer)
    if isinstance(layer, nn.Linear):
        return quantised(layer) or scaled(layer) or (OwnForward if stored_otherwise(layer) else LinearWeight)(layer)
    if isinstance(layer, Conv1D):
        check_stored(layer)
        return Conv1DWeight(layer)
    if isinstance(layer, _ConvNd):
        check_stored(layer)
        kind = TransposedWeight if layer.transposed else ConvWeight
        return kind(layer) if layer.groups == 1 else GroupedWeight(layer)
    if isinstance(layer, nn.Embedding):
        check_stored(layer)
        return EmbeddingWeight(layer)
    if isinstance(layer, Experts):
        return ExpertWeight(layer)
    if isinstance(layer, Slice):
        return SliceWeight(layer, weight_of(layer.host))
    if isinstance(layer, nn.MultiheadAttention):
        held = "query, key, value and out_proj" if layer._parameters.get("in_proj_weight") is not None else "out_proj"
        raise Unsupported(
            f"{type(layer).__name__} holds several weights, each with a method of its own: name its {held}"
        )
    if says_linear(layer):
        return OwnForward(layer)
    if has_bias(layer):
        return BiasOnly(layer)
    raise Unsupported(
        f"no method can sit on {type(layer).__name__}: expected Linear, Conv1D, a convolution, "
        "Embedding or a layer with a bias"
    )
