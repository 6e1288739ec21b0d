"""Block-diagonal matrices near the identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide


class BlockDiag(Leaf):
    """I + diag(D_1, ..., D_N) in R^{n x n}, the blocks (N, b, b); where b does not divide n, the last one is cut off.

    The blocks are what is added to the identity: however small, rounding leaves them what they are.
    """

    def __init__(self, blocks: Tensor | Live, n: int):
        self.blocks = blocks
        self.shape = (n, n)

    def dense(self) -> Tensor:
        (n, _), D = self.shape, wide(now(self.blocks))
        return torch.block_diag(*D)[:n, :n] + torch.eye(n, dtype=D.dtype, device=D.device)

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        D, (n, _) = now(self.blocks).to(x.dtype), self.shape
        count, b, _ = D.shape
        whole = x if n == count * b else pad(x, (0, count * b - n))  # which copies, though there be nothing to add
        y = torch.einsum("...kb,kbc->...kc", whole.unflatten(-1, (count, b)), D).flatten(-2)[..., :n]
        return plus(plus(x, y), bias)

    @property
    def trainable(self) -> int:
        return self.blocks.numel() if self.blocks.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        trainable = self.trainable if training else 0
        inner = (Factor("opaque", self.shape[0], self.blocks.shape[-1], trainable),)
        return Factor.sum(inner, *self.shape, trainable=trainable)
