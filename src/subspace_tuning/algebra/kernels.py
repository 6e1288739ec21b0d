"""The two elementary steps of an expression, written for few passes over memory and few bytes kept for backward.

scaled          x d + b, d a diagonal
added_product   b + s x M, M a small matrix
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 128  # of a block that stays in cache while two tensors are multiplied and summed
FAR_FROM_ZERO = 0.25


def scaled(x: Tensor, d: Tensor, bias: Tensor | None) -> Tensor:
    """x d + bias; x: (..., n), d: (n,), bias: (n,) or (..., n) or None."""
    if torch.compiler.is_compiling() or not (d.requires_grad and torch.is_grad_enabled()):
        return x * d if bias is None else torch.addcmul(bias, x, d)
    return _Scaled.apply(x, d, bias)


def added_product(x: Tensor, M: Tensor, bias: Tensor | None, scale: float = 1.0) -> Tensor:
    """bias + scale x M; x: (..., n), M: (n, m), bias: (m,) or (..., m) or None."""
    if bias is None or bias.dim() == 1 or bias.dtype != x.dtype or x.numel() == 0:
        y = x @ M
        y = y if scale == 1.0 else scale * y
        return y if bias is None else y + bias.to(y.dtype)
    n, m = M.shape
    return torch.addmm(bias.reshape(-1, m), x.reshape(-1, n), M, alpha=scale).view(bias.shape)


class _Scaled(torch.autograd.Function):
    """x d + b. Keeps for backward what the next operation is likely to keep too: the output, from which x follows as
    (y - b) / d as long as d is far from zero; else x. All that backward does can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, bias: Tensor | None) -> Tensor:
        y = x * d if bias is None else torch.addcmul(bias, x, d)
        # a bias means an output, which the next operation keeps; without one x is an input, which its maker keeps
        ctx.from_output = bias is not None and bias.dim() == 1 and not x.is_cuda and _far_from_zero(d)
        ctx.save_for_backward(y if ctx.from_output else x, d, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (g,) = grads
        kept, d, bias = ctx.saved_tensors
        dx = g * d if ctx.needs_input_grad[0] else None
        dd = None
        if ctx.needs_input_grad[1]:
            dd = (_columns_dot(g, kept) - bias * _columns_sum(g)) / d if ctx.from_output else _columns_dot(g, kept)
        db = None
        if ctx.needs_input_grad[2]:
            db = g if bias.shape == g.shape else _columns_sum(g)
        return dx, dd, db


def _far_from_zero(d: Tensor) -> bool:
    return bool(d.detach().abs().amin() > FAR_FROM_ZERO) if d.numel() else False


def _columns_sum(g: Tensor) -> Tensor:
    return g.reshape(-1, g.shape[-1]).sum(0)


def _columns_dot(a: Tensor, b: Tensor) -> Tensor:
    """sum over rows of a * b; a, b: (..., m)."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    if a.is_cuda or torch.is_grad_enabled() or len(a) <= ROWS:
        return (a * b).sum(0)
    total = torch.zeros_like(a[0])
    for start in range(0, len(a), ROWS):
        total += (a[start : start + ROWS] * b[start : start + ROWS]).sum(0)
    return total
