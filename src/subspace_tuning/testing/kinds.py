"""Kinds of base weight: a new kind is one entry of ``KINDS``, and every law runs on it for every method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from subspace_tuning.weights.slices import Fused, Slice


def rows_as_they_are(layer: Any, x: Tensor) -> Tensor:
    return x


def outputs_as_they_are(y: Tensor) -> Tensor:
    return y


class Kind(NamedTuple):
    """A kind of base weight: a layer, inputs for it, and how both look to an equation.

    ``matrix`` gives W (n, m), ``rows`` and ``outputs`` what is in x and y: (b, positions, n) and (b, positions, m).
    """

    name: str
    layer: Callable[[], nn.Module]
    x: Callable[[int], Tensor]  # batch size b -> input
    matrix: Callable[[Any], Tensor]  # layer -> W (n, m)
    rows: Callable[[Any, Tensor], Tensor] = rows_as_they_are  # layer, input -> (b, positions, n)
    outputs: Callable[[Tensor], Tensor] = outputs_as_they_are  # output -> (b, positions, m)
    own: Callable[[Any, Tensor], Tensor] = (
        rows_as_they_are  # layer, what the truth makes of the rows -> (b, positions, m)
    )

    def __str__(self) -> str:
        return self.name


def _tokens(b: int) -> Tensor:
    return torch.randn(b, 5, 14)


def _linear(name: str, m: int = 10, **how: Any) -> Kind:
    return Kind(name, lambda: nn.Linear(14, m, **how), _tokens, lambda f: f.weight.T)


def _biased_conv1d() -> nn.Module:
    layer = Conv1D(10, 14)
    nn.init.normal_(layer.bias)
    return layer


def _conv2d(name: str, **how: Any) -> Kind:
    def patches(conv: Any, x: Tensor) -> Tensor:
        return nn.functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).transpose(1, 2)

    return Kind(
        name,
        lambda: nn.Conv2d(3, 10, (3, 2), **how),
        lambda b: torch.randn(b, 3, 9, 8),
        lambda f: f.weight.flatten(1).T,
        patches,
        lambda y: y.flatten(2).transpose(1, 2),
    )


def _keys_per_head() -> nn.Module:
    """The keys of two heads in a fused weight, which is kept by its slice here."""
    whole = nn.Linear(14, 24)
    layer = Slice(whole, Fused(2, (("query", 4), ("key", 5), ("value", 3))), "key")
    layer.add_module("whole", whole)
    return layer


def _one_hot(f: nn.Embedding, x: Tensor) -> Tensor:
    return nn.functional.one_hot(x, f.num_embeddings).to(f.weight.dtype)


KINDS = [
    _linear("linear"),
    _linear("linear_wide", 21),
    _linear("linear_no_bias", bias=False),
    Kind("conv1d", _biased_conv1d, _tokens, lambda f: f.weight),
    _conv2d("conv2d"),
    _conv2d("conv2d_moved", stride=(2, 1), padding=(1, 2), dilation=2),
    _conv2d("conv2d_no_bias", bias=False, padding=1),
    Kind("embedding", lambda: nn.Embedding(17, 10), lambda b: torch.randint(17, (b, 5)), lambda f: f.weight, _one_hot),
    Kind("slice", _keys_per_head, _tokens, lambda f: f.weight.T),
]


def inputs(kind: Kind, batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inputs of a kind; numbers that are not floating-point (tokens) stay as they are."""
    x = kind.x(batch)
    return x.to(dtype) if x.is_floating_point() else x
