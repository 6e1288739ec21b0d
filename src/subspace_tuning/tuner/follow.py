"""Modules that share the weight of a tuned layer and go by its phi(W): one phi for an embedding and its tied head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from subspace_tuning.algebra.precision import plus
from subspace_tuning.method import members
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.saved import named_layers
from subspace_tuning.tuner.start import check_built
from subspace_tuning.weights import Unsupported, weight_of


class Follower:
    """A hook on a module that shares the weight of a tuned layer: its output is that of phi(W).

    An embedding and a linear head keep one tensor (n, m): the head's rows meet phi(W)^T.
    """

    def __init__(self, layer: SubspaceLayer, module: nn.Module):
        self.layer, self.module = layer, module
        self.turned = isinstance(module, nn.Embedding) != isinstance(layer.base_layer, nn.Embedding)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, y: Tensor) -> Tensor:
        adapters = self.layer.working()
        W, E, _, _ = self.layer.tuned(adapters, self.layer.training)
        if not adapters or E is W:
            return y
        own = weight_of(self.module)
        x = own.rows(args[0] if args else next(iter(kwargs.values())))
        if (factors := E.delta_factors()) is not None:
            L, R = (factors[1].T, factors[0].T) if self.turned else factors
            return plus(y, (x @ L.to(x.dtype)) @ R.to(x.dtype))
        M = E.dense()
        return plus(x @ (M.T if self.turned else M).to(x.dtype), own.own_bias)

    def follow(self) -> None:
        """Share the weight that the layer has by now: merged, or put back."""
        self.module.weight = self.layer.get_base_layer().weight


def follow(model: nn.Module, adapter: str) -> None:
    """Let all that shares a weight with the tuned layers of an adapter go by their phi(W).

    Raises Unsupported where nothing does, where two tuned layers share one, and for methods that phi(W) says less of.
    """
    found = False
    tuned = {m.get_base_layer() for m in model.modules() if isinstance(m, SubspaceLayer)}
    for name, layer in named_layers(model, adapter):
        base = layer.get_base_layer()
        sharing = [m for m in model.modules() if m is not base and m._parameters.get("weight") is base.weight]
        if not sharing:
            continue
        found = True
        if any(m in tuned for m in sharing):
            raise Unsupported(f"{name} shares its weight with another tuned module: with one phi for both, name one")
        for method in members(layer.methods[adapter]):
            if method.sits_on != "weight":
                raise Unsupported(
                    f"{name}: {method.name} sits on a module's {method.sits_on}, of which nothing is tied"
                )
            check_built(method, "modules that share the weight go by phi(W)")
        if set(layer.methods) != {adapter} and not layer.followers:
            raise Unsupported(f"{name} has an adapter for itself alone: ensure_weight_tying is the same for all on it")
        for module in sharing if not layer.followers else ():
            layer.followers.append(Follower(layer, module))
            module.register_forward_hook(layer.followers[-1], with_kwargs=True)
    if not found:
        raise Unsupported("ensure_weight_tying: no module shares its weight with one of those that are tuned")


def check_alone(model: nn.Module, adapter: str) -> None:
    """Raise Unsupported where an adapter without ``ensure_weight_tying`` is on a layer that others follow."""
    for name, layer in named_layers(model, adapter):
        if layer.followers:
            raise Unsupported(f"modules follow {name} in its phi(W): say ensure_weight_tying for this adapter too")


def unfollow(model: nn.Module) -> None:
    """Take away the hooks whose layers are not in the model any more."""
    here = {m for m in model.modules() if isinstance(m, SubspaceLayer) and m.methods}
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, Follower) and hook.layer not in here:
                del module._forward_hooks[key], module._forward_hooks_with_kwargs[key]
