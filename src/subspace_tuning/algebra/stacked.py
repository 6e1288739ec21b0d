"""One equation on many weights at once: x_i E_i for i = 1, ..., e, where the E_i differ in their numbers alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from subspace_tuning.algebra.cut import Known
from subspace_tuning.algebra.expr import Expr
from subspace_tuning.algebra.factors import Dense, Diag
from subspace_tuning.algebra.frozen import Weight
from subspace_tuning.algebra.live import Live
from subspace_tuning.algebra.precision import once
from subspace_tuning.algebra.products import Product, Sum

Numbers = Callable[[Tensor | Live], Tensor]  # of one leaf, those of all: (e, ...)


def held_in(E: Expr) -> float:
    """How many numbers its factors hold beside W; infinite where one is of a kind that is not stacked here."""
    if isinstance(E, Sum | Product):
        return sum(held_in(part) for part in (E.terms if isinstance(E, Sum) else E.chain))
    if isinstance(E, Dense | Diag):
        return E.numbers.numel()
    return 0 if isinstance(E, Weight) else float("inf")


def at_once(E: Expr, x: Tensor, y: Tensor | None, numbers: Numbers, bias: Tensor | None = None) -> Tensor:
    """x_i E_i + bias_i, from left to right; x: (e, t, n), y: what the W_i made of them, bias: (e, t, m) or None."""
    if isinstance(E, Sum):
        for term in E.terms:
            bias = at_once(term, x, y, numbers, bias)
        assert bias is not None
        return bias
    chain, scale = (E.chain, E.scale) if isinstance(E, Product) else ((E,), 1.0)
    for factor in chain[:-1]:
        x = at_once(factor, x, y, numbers)
    last = chain[-1]
    if isinstance(last, Sum | Product):
        return _plus(at_once(last, x, y, numbers), bias, scale)
    if isinstance(last, Known):
        assert y is not None
        return _plus(y, bias, scale)
    if isinstance(last, Diag):
        return _plus(once(torch.mul, x, numbers(last.numbers).unsqueeze(1), like=x), bias, scale)
    assert isinstance(last, Dense)
    M = numbers(last.numbers).to(x.dtype)
    if bias is None or bias.dtype != x.dtype or torch.is_autocast_enabled(x.device.type):
        return _plus(torch.bmm(x, M), bias, scale)
    return torch.baddbmm(bias, x, M, alpha=scale)


def _plus(y: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    if bias is None:
        return y if scale == 1.0 else scale * y
    return once(partial(torch.add, alpha=scale), bias, y, like=bias)
