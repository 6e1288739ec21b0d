"""A start near other weights: on a quantised base, near those before they were quantised (LoftQ, arXiv:2310.08659)."""

from __future__ import annotations

import torch
from torch import nn

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Composition, Method
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.model import layers
from subspace_tuning.weights import Unsupported, weight_of


@torch.no_grad()
def start_near(model: nn.Module, original: nn.Module) -> dict[str, tuple[float, float]]:
    """Let the active adapter start where phi(W) is nearest to the weights that another model has: call it once, before
    training.

    original: the model as it was, with modules of the same names. Each method goes by its own projection, LoRA by the
    largest singular values of the difference. Returns how far W and phi(W) are from the original's weight, by the name
    of the layer. Raises ValueError, and changes nothing, where a method has no projection of its own on a layer.
    """
    found = {layer: _nearest(layer, original) for layer in layers(model)}
    if not found:
        raise ValueError("the model has no tuned layers: put a method on it first")
    told = {}
    for layer, (adapter, values, want) in found.items():
        layer.restart(adapter, layer.together([values]))
        reached = layer.tuned([adapter]).E.dense().to(want)
        told[layer.path] = (_apart(layer.frozen.dense().to(want), want), _apart(reached, want))
    return told


def _nearest(layer: SubspaceLayer, original: nn.Module) -> tuple[str, dict[str, torch.Tensor], torch.Tensor]:
    """The active adapter of a layer, its parameters near the original's weight, and that weight."""
    adapters = [a for a in layer.active_adapters if a in layer.methods]
    if len(adapters) != 1 or len(layer.parts) != 1:
        raise Unsupported(f"{layer.path}: one adapter on one weight can start near another; here are {adapters}")
    (adapter,) = adapters
    method = layer.methods[adapter]
    plain = getattr(method, "method", method)
    if isinstance(method, Composition) or method.shared or type(plain).project is Method.project:
        raise Unsupported(f"{layer.path}: {method.name} has no projection of its own on the weight of one layer")
    try:
        W_star = weight_of(original.get_submodule(layer.path)).dense().double()
    except AttributeError as error:
        raise ValueError(f"the other model has no {layer.path}; are the two the same architecture?") from error
    W = layer.frozen.dense().double()
    if W.shape != W_star.shape:
        raise ValueError(f"{layer.path} is {tuple(W.shape)} here and {tuple(W_star.shape)} in the other model")
    b = layer.frozen.own_bias
    b = None if b is None else b.double()
    values = method.project(Weight(W, b), Weight(W_star.to(W), b))
    return adapter, values, W_star.to(W)


def _apart(W: torch.Tensor, want: torch.Tensor) -> float:
    found: float = ((W - want).norm() / want.norm()).item()
    return found
