"""nn.Embedding, and those that scale what they give (Gemma's): W = weight, n = vocabulary, rows are one-hot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.algebra.precision import once, wide
from subspace_tuning.algebra.sparse import rows_of_sparse
from subspace_tuning.weights.layer import LayerWeight, Unsupported

_POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")  # tables with a row a position


class OneHot:
    """The rows of an embedding: ids (...), each standing for a one-hot row of vocabulary length, times a number.

    by: the number that the layer itself multiplies its embeddings with (Gemma's); of the same for all rows.
    """

    one_hot = True

    def __init__(self, ids: Tensor, n: int, dtype: torch.dtype, scale: Tensor | None = None, by: Any = 1.0):
        self.ids, self.n, self.dtype, self.scale, self.by = ids, n, dtype, scale, by
        self.shape = (*ids.shape, n)

    def __matmul__(self, M: Tensor) -> Tensor:
        return self.scaled(F.embedding(self.ids, M) * self.by)

    def scaled(self, y: Tensor) -> Tensor:
        return y if self.scale is None else once(torch.mul, y, self.scale.unsqueeze(-1), like=y)

    def unfold(self) -> Tensor:
        every = torch.arange(self.n, device=self.ids.device)
        rows = (self.ids.unsqueeze(-1) == every).to(self.dtype)  # F.one_hot asks for the largest of them
        return self.scaled(rows * self.by)

    def __mul__(self, d: Tensor) -> OneHot:
        own = F.embedding(self.ids, d.unsqueeze(1)).squeeze(-1)
        return OneHot(self.ids, self.n, self.dtype, own if self.scale is None else self.scale * own, self.by)

    def times_sparse(self, places: Tensor, values: Tensor, m: int) -> Tensor:
        return self.scaled(rows_of_sparse(self.ids, places, wide(values), self.n, m) * self.by).to(self.dtype)

    def map(self, h: Callable[[Tensor], Tensor]) -> OneHot:
        """h of the entries, with h(0) = 0 so that a row keeps its single entry."""
        held = (
            torch.ones(self.ids.shape, dtype=self.dtype, device=self.ids.device) if self.scale is None else self.scale
        )
        return OneHot(self.ids, self.n, self.dtype, h(held * self.by) / self.by, self.by)


class EmbeddingWeight(LayerWeight):
    @staticmethod
    def size(layer: Any) -> tuple[int, int]:
        if type(layer).forward is not nn.Embedding.forward and not hasattr(layer, "embed_scale"):
            raise Unsupported(
                f"{type(layer).__name__} does not look up its inputs as nn.Embedding does, and what it makes of "
                "them is not known; leave it out"
            )
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
        return OneHot(x, n, self.layer.weight.dtype, by=self.scale)

    @property
    def scale(self) -> Any:
        """What the layer multiplies its embeddings with, rounded as it does."""
        by = getattr(self.layer, "embed_scale", 1.0)
        return by.to(self.layer.weight.dtype) if isinstance(by, Tensor) else by

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, OneHot):
            return x.scaled(self.layer(x.ids))
        return x @ self.layer.weight.to(x.dtype)  # rows that were unfolded hold the scale


def positions(model: nn.Module) -> int | None:
    """For how many positions a model has learnt an embedding; None where positions are computed."""
    tables = [
        module.num_embeddings - _skipped(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITIONS
    ]
    return min(tables, default=None)


def _skipped(table: nn.Embedding) -> int:
    """Rows before that of the first position: RoBERTa counts from behind the padding's, BART and OPT from an offset."""
    return table.padding_idx + 1 if table.padding_idx is not None else int(getattr(table, "offset", 0))
