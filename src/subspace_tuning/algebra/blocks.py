"""Block-diagonal matrices, near the identity or of any blocks, and what regroups features between two of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.kernels import Bilinear, bilinear
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plus, wide


class BlockDiag(Leaf):
    """I + diag(D_1, ..., D_N) in R^{n x n}, the blocks (N, b, b).

    Where b does not divide n, the last block is cut off; features beyond the last block stay as they are. The blocks
    are what is added to the identity: however small, rounding leaves them what they are. With a ``stride`` the two
    halves of a block stand that many halves apart, as in a butterfly: of 2 stride halves in a row, i goes with
    i + stride.
    """

    def __init__(self, blocks: Tensor | Live, n: int, stride: int = 1):
        self.blocks, self.stride = blocks, stride
        self.shape = (n, n)

    def dense(self) -> Tensor:
        (n, _), D = self.shape, wide(now(self.blocks))
        order = self._parted(torch.arange(D[..., 0].numel(), device=D.device)).flatten().argsort()
        M = torch.block_diag(*D)[order][:, order][:n, :n]
        return pad(M, (0, n - len(M), 0, n - len(M))) + torch.eye(n, dtype=D.dtype, device=D.device)

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        D, (n, _) = now(self.blocks).to(x.dtype), self.shape
        held = D[..., 0].numel()
        whole = x if n == held else pad(x, (0, held - n))  # which copies, though there be nothing to add
        y = self._joined(torch.einsum("...kb,kbc->...kc", self._parted(whole), D))
        y = y[..., :n] if n <= held else pad(y, (0, n - held))
        return plus(plus(x, y), bias)

    def _parted(self, x: Tensor) -> Tensor:
        """(..., N b) -> (..., N, b)."""
        b = self.blocks.shape[-1]
        if self.stride == 1:
            return x.unflatten(-1, (-1, b))
        return x.unflatten(-1, (-1, 2, self.stride, b // 2)).transpose(-3, -2).flatten(-2).flatten(-3, -2)

    def _joined(self, y: Tensor) -> Tensor:
        """(..., N, b) -> (..., N b)."""
        if self.stride == 1:
            return y.flatten(-2)
        b = self.blocks.shape[-1]
        return y.unflatten(-2, (-1, self.stride)).unflatten(-1, (2, b // 2)).transpose(-3, -2).flatten(-4)

    @property
    def trainable(self) -> int:
        return self.blocks.numel() if self.blocks.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        trainable = self.trainable if training else 0
        inner = (Factor("opaque", self.shape[0], self.blocks.shape[-1], trainable),)
        return Factor.sum(inner, *self.shape, trainable=trainable)


class Blocks(Leaf):
    """diag(M_1, ..., M_k) in R^{k p x k q}, the blocks (k, p, q)."""

    def __init__(self, blocks: Tensor | Live):
        self.blocks = blocks
        k, p, q = blocks.shape
        self.shape = (k * p, k * q)

    def dense(self) -> Tensor:
        return torch.block_diag(*now(self.blocks))

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        return plus(bilinear(x, now(self.blocks), BLOCKWISE), bias)

    @property
    def trainable(self) -> int:
        return self.blocks.numel() if self.blocks.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        entries = self.blocks.numel()
        return Factor("sparse", *self.shape, self.trainable if training else 0, entries=entries)


class Regroup(Leaf):
    """A permutation: k groups of l parts of length p become l groups of k parts."""

    def __init__(self, k: int, l: int, p: int, like: Tensor | Live):  # noqa: E741
        self.parts, self.like = (k, l, p), like
        self.shape = (k * l * p, k * l * p)

    def dense(self) -> Tensor:
        like = now(self.like)
        return self.apply(torch.eye(self.shape[0], dtype=like.dtype, device=like.device))

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        return plus(x.unflatten(-1, self.parts).transpose(-3, -2).flatten(-3), bias)

    def as_factor(self, training: bool) -> Factor:
        return Factor("sparse", *self.shape)


def _blockwise(x: Tensor, M: Tensor) -> Tensor:
    """x_i M_i: (..., k p), (k, p, q) -> (..., k q)."""
    return torch.einsum("...kp,kpq->...kq", x.unflatten(-1, M.shape[:2]), M.to(x.dtype)).flatten(-2)


def _of_blocks(x: Tensor, g: Tensor, M: Tensor) -> Tensor:
    """x_i^T g_i, over all rows: (k, p, q)."""
    k, p, q = M.shape
    rows = x.reshape(-1, k, p).to(g.dtype), g.reshape(-1, k, q)
    return torch.einsum("tkp,tkq->kpq", *rows).to(M.dtype)


BLOCKWISE = Bilinear(_blockwise, lambda g, M: _blockwise(g, M.mT), _of_blocks)
