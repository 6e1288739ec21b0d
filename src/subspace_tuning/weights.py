"""Layers of a network as frozen weights W in R^{n x m}: how each kind meets its rows.

nn.Linear     W = weight^T                     rows are the inputs
Conv1D        W = weight (GPT-2's layout)      rows are the inputs
nn.Conv2d     W = weight flattened, transposed rows are the patches, n = in * kh * kw
nn.Embedding  W = weight, n = vocabulary       rows are one-hot
a module with a bias and none of these         carries biases only
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from subspace_tuning.algebra import Weight
from subspace_tuning.algebra.sparse import rows_of_sparse, times_sparse


class Unsupported(ValueError):
    """Raised where a method cannot sit on a kind of layer."""


class LayerWeight(Weight):
    """The weight of a layer; x @ W goes through the layer's own forward."""

    holds_matrix = True

    def __init__(self, layer: nn.Module):
        self.layer: Any = layer
        self.shape = self.size(layer)

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        """(n, m) of the layer."""
        raise NotImplementedError

    def rows(self, x: Tensor) -> Any:
        """x as rows of length n."""
        return x

    def finish(self, y: Tensor) -> Tensor:
        """(..., m) back in the layer's own layout."""
        return y

    def unfinish(self, y: Tensor) -> Tensor:
        """(..., m) of an output in the layer's own layout."""
        return y

    def forward(self, x: Any) -> Tensor:
        return self.layer(x)

    @property
    def own_bias(self) -> Tensor | None:
        return getattr(self.layer, "bias", None)

    @property
    def dtype(self) -> torch.dtype:
        own = self.layer.weight.dtype
        return own if own.is_floating_point else torch.get_default_dtype()

    def assign(self, W: Tensor | None, bias: Tensor | None) -> None:
        """Write W (n, m) and the bias into the layer; None leaves what is there."""
        with torch.no_grad():
            if W is not None:
                self.layer.weight.copy_(self.as_stored(W))
            if bias is not None:
                self.layer.bias.copy_(bias)

    def as_stored(self, W: Tensor) -> Tensor:
        """W (n, m) in the shape of the layer's weight."""
        raise NotImplementedError


class LinearWeight(LayerWeight):
    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.in_features, layer.out_features

    def dense(self) -> Tensor:
        from peft.utils.integrations import dequantize_module_weight

        weight = self.layer.weight
        return (weight if weight.is_floating_point() else dequantize_module_weight(self.layer)).T

    def as_stored(self, W: Tensor) -> Tensor:
        return W.T


class Conv1DWeight(LayerWeight):
    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.weight.shape[0], layer.weight.shape[1]

    def dense(self) -> Tensor:
        return self.layer.weight

    def forward(self, x: Any) -> Tensor:
        return self.layer(x.contiguous())  # Conv1D views its input

    def as_stored(self, W: Tensor) -> Tensor:
        return W


class Patches:
    """The rows of a convolution: x (b, c, h, w), one row of c * kh * kw entries per output position."""

    def __init__(self, x: Tensor, conv: nn.Conv2d):
        self.x, self.conv, self.dtype = x, conv, x.dtype
        c, (kh, kw) = conv.in_channels, conv.kernel_size
        self.shape = (x.shape[0], *self._positions(x), c * kh * kw)

    def _positions(self, x: Tensor) -> tuple[int, int]:
        c = self.conv
        ph, pw = c.padding if isinstance(c.padding, tuple) else _padding_of(c)
        sizes = zip(x.shape[2:], (ph, pw), c.dilation, c.kernel_size, c.stride, strict=True)
        h, w = ((s + 2 * p - d * (k - 1) - 1) // st + 1 for s, p, d, k, st in sizes)
        return h, w

    def __matmul__(self, M: Tensor) -> Tensor:
        c = self.conv
        kernel = M.T.reshape(M.shape[1], c.in_channels, *c.kernel_size)
        return F.conv2d(self.x, kernel, None, c.stride, c.padding, c.dilation).movedim(1, -1)

    def unfold(self) -> Tensor:
        c = self.conv
        padding = c.padding if isinstance(c.padding, tuple) else _padding_of(c)
        cols = F.unfold(self.x, c.kernel_size, c.dilation, padding, c.stride)  # (b, n, positions)
        return cols.transpose(1, 2).reshape(self.shape)

    def __mul__(self, d: Tensor) -> Tensor:
        return self.unfold() * d

    def times_sparse(self, places: Tensor, values: Tensor, m: int) -> Tensor:
        return times_sparse(self.unfold(), places, values, m)

    def map(self, h: Callable[[Tensor], Tensor]) -> Patches:
        """h of the entries, with h(0) = 0 so that padding stays padding."""
        return Patches(h(self.x), self.conv)


def _padding_of(conv: nn.Conv2d) -> tuple[int, int]:
    if conv.padding == "valid":
        return 0, 0
    h, w = (d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    if h % 2 or w % 2:
        raise Unsupported(f"padding 'same' with kernel {conv.kernel_size} is uneven; give the padding as numbers")
    return h // 2, w // 2


class Conv2dWeight(LayerWeight):
    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        if layer.groups != 1 or layer.padding_mode != "zeros":
            raise Unsupported(
                f"a Conv2d with groups={layer.groups} and padding_mode={layer.padding_mode!r} is not one weight over "
                "patches; methods sit on convolutions with groups=1 and zero padding"
            )
        kh, kw = layer.kernel_size
        return layer.in_channels * kh * kw, layer.out_channels

    def dense(self) -> Tensor:
        return self.layer.weight.flatten(1).T

    def as_stored(self, W: Tensor) -> Tensor:
        return W.T.reshape(self.layer.weight.shape)

    def rows(self, x: Tensor) -> Patches:
        return Patches(x, self.layer)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Patches):
            return self.layer(x.x).movedim(1, -1)
        return F.linear(x, self.layer.weight.flatten(1).to(x.dtype), self.own_bias)

    def finish(self, y: Tensor) -> Tensor:
        return y.movedim(-1, 1)

    def unfinish(self, y: Tensor) -> Tensor:
        return y.movedim(1, -1)


class OneHot:
    """The rows of an embedding: ids (...), each standing for a one-hot row of vocabulary length, times a number."""

    one_hot = True

    def __init__(self, ids: Tensor, n: int, dtype: torch.dtype, scale: Tensor | None = None):
        self.ids, self.n, self.dtype, self.scale = ids, n, dtype, scale
        self.shape = (*ids.shape, n)

    def __matmul__(self, M: Tensor) -> Tensor:
        return self.scaled(F.embedding(self.ids, M))

    def scaled(self, y: Tensor) -> Tensor:
        return y if self.scale is None else y * self.scale.unsqueeze(-1)

    def unfold(self) -> Tensor:
        return self.scaled(F.one_hot(self.ids, self.n).to(self.dtype))

    def __mul__(self, d: Tensor) -> OneHot:
        own = F.embedding(self.ids, d.unsqueeze(1)).squeeze(-1)
        return OneHot(self.ids, self.n, self.dtype, own if self.scale is None else self.scale * own)

    def times_sparse(self, places: Tensor, values: Tensor, m: int) -> Tensor:
        return self.scaled(rows_of_sparse(self.ids, places, values, self.n, m))

    def map(self, h: Callable[[Tensor], Tensor]) -> OneHot:
        """h of the entries, with h(0) = 0 so that a row keeps its single entry."""
        held = (
            torch.ones(self.ids.shape, dtype=self.dtype, device=self.ids.device) if self.scale is None else self.scale
        )
        return OneHot(self.ids, self.n, self.dtype, h(held))


class EmbeddingWeight(LayerWeight):
    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        return layer.num_embeddings, layer.embedding_dim

    def dense(self) -> Tensor:
        return self.layer.weight

    def as_stored(self, W: Tensor) -> Tensor:
        return W

    @property
    def own_bias(self) -> Tensor | None:
        return None

    def rows(self, x: Tensor) -> OneHot:
        n, _ = self.shape
        return OneHot(x, n, self.layer.weight.dtype)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, OneHot):
            return x.scaled(self.layer(x.ids))
        return x @ self.layer.weight.to(x.dtype)


class BiasOnly(LayerWeight):
    """A layer of which only the bias is tuned: layer norms and the like."""

    holds_matrix = False

    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        m = layer.bias.numel()
        return m, m

    def dense(self) -> Tensor:
        raise Unsupported(f"{type(self.layer).__name__} holds no matrix")


def weight_of(layer: nn.Module) -> LayerWeight:
    """The layer as a frozen weight. Raises ``Unsupported`` for a layer that has neither a weight matrix nor a bias."""
    if isinstance(layer, nn.Linear):
        return LinearWeight(layer)
    if isinstance(layer, Conv1D):
        return Conv1DWeight(layer)
    if isinstance(layer, nn.Conv2d):
        return Conv2dWeight(layer)
    if isinstance(layer, nn.Embedding):
        if hasattr(layer, "embed_scale"):
            raise Unsupported(
                f"{type(layer).__name__} scales its embeddings in forward, which no method takes account of"
            )
        return EmbeddingWeight(layer)
    if isinstance(getattr(layer, "bias", None), Tensor):
        return BiasOnly(layer)
    raise Unsupported(
        f"no method can sit on {type(layer).__name__}: expected Linear, Conv1D, Conv2d, "
        "Embedding or a layer with a bias"
    )
