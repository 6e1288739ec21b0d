"""Features mixed two by two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.kernels import columns_dot
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import once, plainly, plus, wide


class Pairs(Leaf):
    """(x E)_j = f_j x_j + h_j x_{p(j)}: f, h (m,); p (m,) is the partner of each feature, p(p(j)) = j."""

    def __init__(self, f: Tensor | Live, h: Tensor | Live, partner: Tensor | Live):
        self.f, self.h, self.partner = f, h, partner
        self.shape = (f.shape[0], f.shape[0])

    def dense(self) -> Tensor:
        p = now(self.partner)
        every = torch.arange(len(p), device=p.device)
        f, h = wide(now(self.f)), wide(now(self.h))
        return torch.diag(f).index_put((p, every), h, accumulate=True)

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        x = x if isinstance(x, Tensor) else x.unfold()
        f, h, p = now(self.f), now(self.h), now(self.partner)
        return plus((mixed if plainly() else _Mixed.apply)(x, f, h, p), bias)

    @property
    def trainable(self) -> int:
        return sum(d.numel() for d in (self.f, self.h) if d.requires_grad)

    def as_factor(self, training: bool) -> Factor:
        inner = (Factor("diag", *self.shape), Factor("diag", *self.shape))
        return Factor.sum(inner, *self.shape, trainable=self.trainable if training else 0)


def mixed(x: Tensor, f: Tensor, h: Tensor, partner: Tensor) -> Tensor:
    """f x + h x[p], rounded once to the precision of x; x (..., m)."""
    return once(torch.addcmul, x * f, x[..., partner], h, like=x)


class _Mixed(torch.autograd.Function):
    """Keeps x once. All that backward does can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, h: Tensor, partner: Tensor) -> Tensor:
        ctx.save_for_backward(x, f, h, partner)
        return mixed(x, f, h, partner)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, f, h, partner) = grads, ctx.saved_tensors
        dx = mixed(g, f, h[partner], partner) if ctx.needs_input_grad[0] else None
        df = columns_dot(g, x).to(f.dtype) if ctx.needs_input_grad[1] else None
        dh = columns_dot(g, x[..., partner]).to(h.dtype) if ctx.needs_input_grad[2] else None
        return dx, df, dh, None
