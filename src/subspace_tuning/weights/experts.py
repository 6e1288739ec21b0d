"""The experts of a mixture, kept as one parameter: W_1, ..., W_e in R^{n x m}, stored as (e, m, n) or (e, n, m).

A module that keeps such a parameter multiplies rows by it in a forward of its own (expert by expert, or all in one
grouped product). ``Experts`` is that parameter as a layer; ``ExpertWeight`` is W_i of the expert that is at work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.weights.layer import REAL, LayerWeight


class Unreadable(RuntimeError):
    """Raised where W is read while all experts are at work at once."""


class Experts(nn.Module):
    """weight: (e, n, m) where ``turned``, else (e, m, n); bias: (e, m) or None; ``at``: the expert that is at work,
    None where all are.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None, turned: bool = False):
        super().__init__()
        self.weight, self.bias, self.turned = weight, bias, turned
        self.at: int | None = 0
        self.among: tuple[str, ...] = ()  # the parameters that its module had, in their order

    @property
    def count(self) -> int:
        return len(self.weight)

    @property
    def size(self) -> tuple[int, int]:
        """(n, m)"""
        n, m = self.weight.shape[1:] if self.turned else reversed(self.weight.shape[1:])
        return n, m

    def extra_repr(self) -> str:
        n, m = self.size
        return f"{self.count} x {n} x {m}, bias={self.bias is not None}"


class ExpertWeight(LayerWeight):
    """W_i of one expert, or else of the one that is at work.

    biased: with the bias that belongs to it; the module that keeps the experts adds it on its own.
    """

    def __init__(self, layer: Experts, one: int | None = None, biased: bool = True):
        super().__init__(layer)
        self.one, self.biased = one, biased

    @property
    def at(self) -> int:
        at: int | None = self.layer.at if self.one is None else self.one
        if at is None:
            raise Unreadable("an equation reads W of one expert while all are at work")
        return at

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.size

    def dense(self) -> Tensor:
        own = self.layer.weight[self.at]
        return own if self.layer.turned else own.T

    @property
    def own_bias(self) -> Tensor | None:
        return self.layer.bias[self.at] if self.biased and self.layer.bias is not None else None

    def forward(self, x: Any) -> Tensor:
        return F.linear(x, self.dense().T, self.own_bias)

    def product(self, x: Any) -> Tensor:
        return F.linear(x, self.dense().T)

    def numbers(self, name: str) -> Tensor:
        """Of one expert, or else of all."""
        return getattr(self.layer, name) if self.one is None else getattr(self.layer, name)[self.one]

    def as_stored(self, W: Tensor) -> Tensor:
        """(n, m) of one expert, or (e, n, m) of all."""
        return W if self.layer.turned else W.mT


def keeps_experts(name: str, module: nn.Module) -> bool:
    """Whether a module of this name looks like one that keeps experts as parameters of its own."""
    return "expert" in type(module).__name__.lower() or "expert" in name.rpartition(".")[2]


def experts_of(name: str, module: nn.Module) -> Iterator[tuple[str, Experts]]:
    """The fused weights that a module keeps as parameters, by the names that it has for them."""
    if not keeps_experts(name, module):
        return
    coded = tuple(own for own, _ in coded_experts(name, module))
    for own, p in module.named_parameters(recurse=False):
        if p.dim() == 3 and not (coded and own.startswith(coded)):
            bias: Any = module._parameters.get(f"{own}_bias")
            yield own, Experts(p, bias if bias is not None and bias.dim() == 2 else None, _turned(module))


def coded_experts(name: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    """The fused weights that a module keeps in codes, and their precision: scales are beside them, under longer names.

    The module multiplies with the codes by itself, so that no method reaches these weights.
    """
    for own, p in module.named_parameters(recurse=False) if keeps_experts(name, module) else ():
        if p.dim() == 3 and p.dtype not in REAL:
            yield own, str(p.dtype).removeprefix("torch.")


def _turned(module: Any) -> bool:
    """Whether the weights are stored as (e, n, m): the module says so, or else what gate and up make fits down."""
    if (said := getattr(module, "is_transposed", None)) is not None:
        return said
    held = dict(module.named_parameters(recurse=False))
    wide, narrow = held.get("gate_up_proj"), held.get("down_proj")
    return wide is not None and narrow is not None and wide.shape[2] == 2 * narrow.shape[1]


def with_experts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model by name, fused weights of experts after the module that keeps them."""
    for name, module in model.named_modules():
        yield name, module
        yield from ((f"{name}.{own}".lstrip("."), fused) for own, fused in experts_of(name, module))


class Bias(nn.Module):
    """Stands where a module had the biases of its experts while the weight beside it is tuned; read by expert."""

    def __init__(self, keeper: nn.Module, name: str):
        super().__init__()
        self._of = (keeper, name)  # in a tuple: the keeper is no part of what it keeps

    def __getitem__(self, at: Any) -> Tensor:
        keeper, name = self._of
        layer: Any = keeper.get_submodule(name)
        biases: Any = layer.bias if isinstance(layer, Experts) else layer.biases()
        return biases[at]


def seat(module: nn.Module, name: str, fused: Experts) -> None:
    """Make a layer of a parameter of experts, under the parameter's name, so that it can be tuned."""
    fused.among = tuple(module._parameters)
    del module._parameters[name]
    module.add_module(name, fused)
    if fused.bias is not None:
        del module._parameters[f"{name}_bias"]
        module.add_module(f"{name}_bias", Bias(module, name))


def unseat(model: nn.Module) -> None:
    """Make parameters again, in their old order, of all experts that are layers and not tuned."""
    for module in [m for m in model.modules() if not isinstance(m, BaseTunerLayer)]:
        for name, fused in [(k, m) for k, m in module._modules.items() if isinstance(m, Experts)]:
            del module._modules[name]
            module.register_parameter(name, fused.weight)
            if fused.bias is not None:
                del module._modules[f"{name}_bias"]
                module.register_parameter(f"{name}_bias", fused.bias)
            held = module._parameters
            for key in [k for k in fused.among if k in held]:
                held[key] = held.pop(key)


def apart(values: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """What a checkpoint holds of each expert: of tensors (e, ...), or by itself under name@i.

    Raises ValueError where that is not e experts.
    """
    own: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, value in values.items():
        stem, _, at = name.rpartition("@")
        if stem and at.isdecimal() and int(at) < count:
            own[int(at)][stem] = value
        elif stem or not value.dim() or len(value) != count:
            raise ValueError(f"{name} is of shape {tuple(value.shape)}, expected one for each of {count} experts")
        else:
            for one, part in zip(own, value, strict=True):
                one[name] = part
    return own


def stacked(parts: list[Tensor]) -> Tensor:
    """(e, ...): what each expert has; one and the same tensor of all is kept once."""
    first = parts[0]
    return first.expand(len(parts), *first.shape) if all(t is first for t in parts) else torch.stack(parts)
