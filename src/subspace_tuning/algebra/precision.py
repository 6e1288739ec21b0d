"""Computed in single precision or better, rounded once.

A scale of 1.003 is 1 in bfloat16: parameters and what is made of them stay in single precision, and only what they
make of the rows is rounded to the precision of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


def wide(t: Tensor) -> Tensor:
    """t in single precision or better; numbers that are no fractions stay as they are."""
    return t.to(torch.promote_types(t.dtype, torch.float32)) if t.is_floating_point() else t


def once(f: Callable[..., Tensor], *args: Tensor, like: Tensor) -> Tensor:
    """f(*args), entry by entry, in the widest precision among them, rounded once to that of ``like`` (its shape too).

    Where no gradient is asked for, kernels write the rounded numbers straight away; nothing wide is laid out on a GPU.
    """
    if all(t.dtype == like.dtype for t in args):
        return f(*args)
    if plainly() or (torch.is_grad_enabled() and any(t.requires_grad for t in args)):
        return f(*args).to(like.dtype)
    return f(*args, out=torch.empty_like(like))


def without_autocast(like: Tensor) -> Any:
    """A context in which products of matrices are not rounded to half precision; a meta tensor has no autocast."""
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)


def plus(y: Tensor, bias: Tensor | None) -> Tensor:
    """y + bias, in the precision of y."""
    return y if bias is None else once(torch.add, y, bias, like=y)


def plainly() -> bool:
    """Whether operations of torch must be left as they are: compilers and functional transforms see through them."""
    return torch.compiler.is_compiling() or _transforms()


_transforms: Callable[[], Any] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
