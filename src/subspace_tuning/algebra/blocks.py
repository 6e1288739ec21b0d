"""Block-diagonal matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor


class BlockDiag(Leaf):
    """diag(R_1, ..., R_N) in R^{n x n}, the blocks (N, b, b); where b does not divide n, the last one is cut off."""

    def __init__(self, blocks: Tensor | Live, n: int):
        self.blocks = blocks
        self.shape = (n, n)

    def dense(self) -> Tensor:
        n, _ = self.shape
        return torch.block_diag(*now(self.blocks))[:n, :n]

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        R, (n, _) = now(self.blocks).to(x.dtype), self.shape
        count, b, _ = R.shape
        padded = pad(x, (0, count * b - n)).unflatten(-1, (count, b))
        y = torch.einsum("...kb,kbc->...kc", padded, R).flatten(-2)[..., :n]
        return y if bias is None else y + bias.to(y.dtype)

    @property
    def trainable(self) -> int:
        return self.blocks.numel() if self.blocks.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        trainable = self.trainable if training else 0
        inner = (Factor("opaque", self.shape[0], self.blocks.shape[-1], trainable),)
        return Factor.sum(inner, *self.shape, trainable=trainable)
