"""The two elementary steps of an expression, written for few passes over memory and few bytes kept for backward.

Their gradients are functions of autograd's; compilers, which plan memory themselves, see the plain operations.

scaled          x d + b, d a diagonal
added_product   b + s x M, M a small matrix
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra.kept import keep, kept

ROWS = 128  # of a block that stays in cache while two tensors are multiplied and summed
FAR_FROM_ZERO = 0.25
THIN = 64  # columns


def scaled(x: Tensor, d: Tensor, bias: Tensor | None) -> Tensor:
    """x d + bias; x: (..., n), d: (n,), bias: (n,) or (..., n) or None."""
    if torch.compiler.is_compiling() or not (d.requires_grad and torch.is_grad_enabled()):
        return x * d if bias is None else torch.addcmul(bias, x, d)
    return _Scaled.apply(x, d, bias)


def added_product(x: Tensor, M: Tensor, bias: Tensor | None, scale: float = 1.0) -> Tensor:
    """bias + scale x M; x: (..., n), M: (n, m), bias: (m,) or (..., m) or None."""
    if torch.is_autocast_enabled(x.device.type):
        x, M = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, M))
    whole = bias if bias is not None and bias.dim() > 1 and bias.dtype == x.dtype else None
    trained = M.requires_grad and torch.is_grad_enabled()
    function = _AddedProduct.apply if trained and not torch.compiler.is_compiling() else _added_product
    y = function(x, M, whole, scale)
    return y if bias is None or bias is whole else y + bias.to(y.dtype)


def _added_product(x: Tensor, M: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    n, m = M.shape
    rows = x.reshape(-1, n)
    if bias is not None:
        return torch.addmm(bias.reshape(-1, m), rows, M, alpha=scale).view(bias.shape)
    # processors multiply thin matrices from the left several times faster than from the right
    y = (M.T @ rows.T).T if m < THIN else rows @ M
    return (y if scale == 1.0 else scale * y).view(*x.shape[:-1], m)


class _AddedProduct(torch.autograd.Function):
    """bias + scale x M, for a trained M. All that backward does can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, M: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        ctx.scale = scale
        keep(ctx, x, M)
        return _added_product(x, M, bias, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        x, M = kept(ctx)
        rows, own = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        dx = _added_product(g, M.T, None, ctx.scale) if ctx.needs_input_grad[0] else None
        dM = (rows.T @ own).T if rows.shape[1] < own.shape[1] else own.T @ rows
        dM = dM if ctx.scale == 1.0 else ctx.scale * dM
        return dx, dM, g if ctx.needs_input_grad[2] else None, None


class _Scaled(torch.autograd.Function):
    """x d + b. Keeps for backward what the next operation is likely to keep too: the output, from which x follows as
    (y - b) / d as long as d is far from zero; else x. All that backward does can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, bias: Tensor | None) -> Tensor:
        y = x * d if bias is None else torch.addcmul(bias, x, d)
        # a bias means an output, which the next operation keeps; without one x is an input, which its maker keeps
        ctx.from_output = bias is not None and bias.dim() == 1 and not x.is_cuda and _far_from_zero(d)
        ctx.bias_shape = None if bias is None else bias.shape
        keep(ctx, y if ctx.from_output else x, d, bias if ctx.from_output else None)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (g,) = grads
        own, d, bias = kept(ctx)
        dx = g * d if ctx.needs_input_grad[0] else None
        dd = (_columns_dot(g, own) - bias * _columns_sum(g)) / d if ctx.from_output else _columns_dot(g, own)
        db = None
        if ctx.needs_input_grad[2]:
            db = g if ctx.bias_shape == g.shape else _columns_sum(g)
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
