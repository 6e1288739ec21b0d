"""The elementary steps of an expression, written for few passes over memory and few bytes kept for backward.

Their gradients are functions of autograd's; compilers, which plan memory themselves, and functional transforms see the
plain operations.

scaled          x d + b, d a diagonal
added_product   b + s x M, M a small matrix
bilinear        what is linear in x and in some numbers M
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from subspace_tuning.algebra.kept import keep, kept
from subspace_tuning.algebra.precision import once, plainly, wide

ROWS = 128  # of a block that stays in cache while two tensors are multiplied and summed
FAR_FROM_ZERO = 1 / 64  # of scales: what they make of x stays far above the least numbers of half precision
AS_GOOD = 2.0  # how many times the norm of x d, column by column, that of the bias may be for x to follow from x d + b
THIN = 64  # columns
MANY, FEW = 128, 16  # rows
traced_for = ContextVar("traced_for", default="cpu")  # the device that tensors without numbers stand for


def scaled(x: Tensor, d: Tensor, bias: Tensor | None) -> Tensor:
    """x d + bias, rounded once to the precision of x; x: (..., n), d: (n,), bias: (n,) or (..., n) or None."""
    if plainly() or not (d.requires_grad and torch.is_grad_enabled()):
        return _scaled(x, d, bias)
    return _Scaled.apply(x, d, bias)[0]


def _scaled(x: Tensor, d: Tensor, bias: Tensor | None) -> Tensor:
    return once(torch.mul, x, d, like=x) if bias is None else once(torch.addcmul, bias, x, d, like=x)


def added_product(x: Tensor, M: Tensor, bias: Tensor | None, scale: float = 1.0) -> Tensor:
    """bias + scale x M; x: (..., n), M: (n, m), bias: (m,) or (..., m) or None."""
    if _any_autocast() and torch.is_autocast_enabled(x.device.type):
        x, M = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, M))
    whole = bias if bias is not None and bias.dim() > 1 and bias.dtype == x.dtype else None
    trained = M.requires_grad and torch.is_grad_enabled()
    function = _AddedProduct.apply if trained and not plainly() else _added_product
    y = function(x, M, whole, scale)
    return y if bias is None or bias is whole else once(torch.add, y, bias, like=y)


def _added_product(x: Tensor, M: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    n, m = M.shape
    few = x.numel() <= FEW * n
    if bias is not None:
        if few and x.dtype == torch.float32:  # less to say to torch; in half precision the sum would be rounded twice
            return torch.add(bias, x @ M, alpha=scale)
        return torch.addmm(bias.reshape(-1, m), x.reshape(-1, n), M, alpha=scale).view(bias.shape)
    # some processors multiply thin matrices several times faster from the left
    from_left = m < THIN and x.numel() > MANY * n
    if from_left or not (few or x.is_contiguous()):
        rows = x.reshape(-1, n)
        y = ((M.T @ rows.T).T if from_left else rows @ M).view(*x.shape[:-1], m)
    else:
        y = x @ M
    return y if scale == 1.0 else scale * y


_any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


def _no_view(y: Tensor) -> Tensor:
    """The same numbers in the same memory, and no view of another tensor."""
    return y.new_empty(0).set_(y.untyped_storage(), y.storage_offset(), y.shape, y.stride())


class _AddedProduct(torch.autograd.Function):
    """bias + scale x M, for a trained M. All that backward does can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, M: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        ctx.scale = scale
        keep(ctx, x, M)
        y = _added_product(x, M, bias, scale)
        return _no_view(y)  # a model may change in place what is its own

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        x, M = kept(ctx)
        rows, own = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        dx = _added_product(g, M.T, None, ctx.scale) if ctx.needs_input_grad[0] else None
        dM = (rows.T @ own).T if rows.shape[1] < own.shape[1] else own.T @ rows
        dM = dM if ctx.scale == 1.0 else ctx.scale * dM
        return dx, dM, g if ctx.needs_input_grad[2] else None, None


class Bilinear(NamedTuple):
    """y = of(x, M), linear in x and in M, each result in the precision of what it is a gradient of, y in that of x."""

    of: Callable[[Tensor, Tensor], Tensor]
    by_x: Callable[[Tensor, Tensor], Tensor]  # dy, M -> dx
    by_M: Callable[[Tensor, Tensor, Tensor], Tensor]  # x, dy, M -> dM


def bilinear(x: Tensor, M: Tensor, maps: Bilinear) -> Tensor:
    """of(x, M), of which backward keeps x, or the way to it, and M: nothing that lies between them and y."""
    if not x.numel():  # of no rows there is no transform
        one = torch.cat([x.reshape(0, x.shape[-1]), x.new_zeros(1, x.shape[-1])])
        y = bilinear(one, M, maps)
        return y[:0].reshape(*x.shape[:-1], y.shape[-1])
    if plainly() or not (M.requires_grad and torch.is_grad_enabled()):
        return maps.of(x, M)
    return _Bilinear.apply(x, M, maps)


class _Bilinear(torch.autograd.Function):
    """All that backward does can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, M: Tensor, maps: Bilinear) -> Tensor:
        ctx.maps = maps
        keep(ctx, x, M)
        return _no_view(maps.of(x, M))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        x, M = kept(ctx)
        dx = ctx.maps.by_x(g, M) if ctx.needs_input_grad[0] else None
        return dx, ctx.maps.by_M(x, g, M) if ctx.needs_input_grad[1] else None, None


class _Scaled(torch.autograd.Function):
    """x d + b. Keeps for backward what the next operation is likely to keep too: the output, from which x follows as
    (y - b) / d, where that is nearly as exact as x itself; else x. All that backward does can be differentiated again.

    What is kept of the output is a second output, which shares memory with the first until a model writes into it
    (``torch._lazy_clone``).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        y = _scaled(x, d, bias)
        # a bias means an output, which the next operation keeps; without one x is an input, which its maker keeps
        ctx.from_output = bias is not None and bias.dim() == 1 and not _on_gpu(x) and _follows(x, d, bias)
        ctx.bias_shape, ctx.bias_dtype = (None, None) if bias is None else (bias.shape, bias.dtype)
        again = torch._lazy_clone(y) if ctx.from_output else None
        keep(ctx, x if again is None else again, d, None if again is None else bias)
        return y, again

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        g = sum(grad for grad in grads if grad is not None)
        if not isinstance(g, Tensor):
            return None, None, None
        own, d, bias = kept(ctx)
        dx = once(torch.mul, g, d, like=g) if ctx.needs_input_grad[0] else None
        dd = columns_dot(g, own)
        if ctx.from_output:
            dd = (dd - bias * _columns_sum(g)) / d
        db = None
        if ctx.needs_input_grad[2]:
            db = (g if ctx.bias_shape == g.shape else _columns_sum(g)).to(ctx.bias_dtype)
        return dx, dd.to(d.dtype), db


def _follows(x: Tensor, d: Tensor, bias: Tensor) -> bool:
    """Whether x = (y - bias) / d is nearly as exact as x where y = x d + bias is rounded.

    The rounding of y is that of x d and that of the bias, relative to each; x itself is rounded as x d is. So the
    gradient of d has an error of at most 1 + AS_GOOD times the one that it has with x.
    """
    if isinstance(d, FakeTensor):  # there are no numbers: as it mostly is
        return True
    if not (hasattr(torch, "_lazy_clone") and d.numel()) or bool(d.abs().amin() < FAR_FROM_ZERO):
        return False
    if not bias.any():
        return True
    rows = x.reshape(-1, x.shape[-1])
    norms = torch.linalg.vector_norm(rows, dim=0, dtype=wide(x[..., :0]).dtype)
    return bool((len(rows) ** 0.5 * bias.abs() <= AS_GOOD * d.abs() * norms).all())


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda or (isinstance(x, FakeTensor) and traced_for.get() == "cuda")


def _columns_sum(g: Tensor) -> Tensor:
    g = g.reshape(-1, g.shape[-1])
    return g.sum(0, dtype=torch.promote_types(g.dtype, torch.float32))


def columns_dot(a: Tensor, b: Tensor) -> Tensor:
    """sum over rows of a * b, in single precision or better; a, b: (..., m)."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    if _on_gpu(a) or torch.is_grad_enabled() or len(a) <= ROWS:
        return (wide(a) * wide(b)).sum(0)
    total = torch.zeros_like(wide(a[0]))
    for start in range(0, len(a), ROWS):
        total += (wide(a[start : start + ROWS]) * wide(b[start : start + ROWS])).sum(0)
    return total
