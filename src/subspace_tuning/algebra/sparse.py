"""Sparse matrices: numbers at fixed places, laid out densely only where a dense product is the faster one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.algebra.expr import Leaf
from subspace_tuning.algebra.kernels import Bilinear, bilinear
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.planner import Factor
from subspace_tuning.algebra.precision import plainly, plus, wide, without_autocast

CHUNK = 1 << 17  # numbers that a product lays out at a time: they stay in a processor's cache
AWAY = 64  # times as many on a card, where each piece costs a launch
DENSE = 64  # one place in so many has a number: a dense product is faster, measured on a CPU
ROWS = 32  # from so many on: laying out costs as much as some rows do


class Sparse(Leaf):
    """A matrix (n, m) with ``values`` (k,) at ``places`` (k,): place i m + j is row i, column j; ascending."""

    def __init__(self, places: Tensor | Live, values: Tensor | Live, shape: tuple[int, int]):
        self.places, self.values, self.shape = places, values, shape

    def apply(self, x: Any, bias: Tensor | None = None) -> Tensor:
        places, values, m = now(self.places), now(self.values), self.shape[1]
        meet = times_sparse if isinstance(x, Tensor) else type(x).times_sparse
        return plus(meet(x, places, values, m), bias)

    def dense(self) -> Tensor:
        return _laid_out(now(self.places), wide(now(self.values)), *self.shape)

    @property
    def trainable(self) -> int:
        return self.values.numel() if self.values.requires_grad else 0

    def as_factor(self, training: bool) -> Factor:
        return Factor("sparse", *self.shape, self.trainable if training else 0, entries=self.values.numel())


def times_sparse(x: Tensor, places: Tensor, values: Tensor, m: int) -> Tensor:
    """x E for x (..., n) and a sparse E (n, m). Returns (..., m), summed in single precision or better."""
    n, rows, cols = x.shape[-1], places // m, places % m
    laid_out = len(places) * DENSE > n * m and x.numel() >= ROWS * n

    def of(x: Tensor, v: Tensor) -> Tensor:
        return _product(x, _laid_out(places, wide(v), n, m)) if laid_out else met(x, v, rows, cols, m)

    def by_x(g: Tensor, v: Tensor) -> Tensor:
        return _product(g, _laid_out(places, wide(v), n, m).T) if laid_out else met(g, v, cols, rows, n)

    return bilinear(x, values, Bilinear(of, by_x, lambda x, g, v: dots(x, rows, g, cols).to(v.dtype)))


def _product(x: Tensor, M: Tensor) -> Tensor:
    with without_autocast(x):
        return (wide(x) @ M).to(x.dtype)


def rows_of_sparse(ids: Tensor, places: Tensor, values: Tensor, n: int, m: int) -> Tensor:
    """The rows E[ids] of a sparse E (n, m) for ids (...). Returns (..., m)."""
    if plainly():
        return F.embedding(ids, _laid_out(places, values, n, m))
    flat = ids.reshape(-1)
    first = torch.searchsorted(places, flat * m)
    count = torch.searchsorted(places, (flat + 1) * m) - first
    token = torch.repeat_interleave(torch.arange(len(flat), device=ids.device), count)
    within = torch.arange(len(token), device=ids.device) - (count.cumsum(0) - count)[token]
    entry = first[token] + within
    y = values.new_zeros(len(flat) * m).index_add(0, token * m + places[entry] % m, values[entry])
    return y.reshape(*ids.shape, m)


def _laid_out(places: Tensor, values: Tensor, n: int, m: int) -> Tensor:
    return values.new_zeros(n * m).index_add(0, places, values).view(n, m)


def met(x: Tensor, values: Tensor, rows: Tensor, cols: Tensor, m: int) -> Tensor:
    """y (..., m) with y[cols] += values x[rows], summed in single precision or better, chunk by chunk."""
    xt = _features_first(x)
    yt = wide(xt[:0]).new_zeros(m, xt.shape[1])
    if plainly():
        yt = yt.index_add(0, cols, (xt[rows] * values.unsqueeze(1)).to(yt.dtype))
    else:
        for c in _chunks(len(values), xt):
            yt.index_add_(0, cols[c], (xt.index_select(0, rows[c]) * values[c].unsqueeze(1)).to(yt.dtype))
    return yt.to(x.dtype).T.reshape(*x.shape[:-1], m)


def dots(x: Tensor, rows: Tensor, g: Tensor, cols: Tensor) -> Tensor:
    """<x[rows], g[cols]> (k,) over all tokens, for x (..., n) and g (..., m), chunk by chunk."""
    xt, gt = _features_first(x), _features_first(g)
    pairs = ((xt.index_select(0, rows[c]), gt.index_select(0, cols[c])) for c in _chunks(len(rows), xt))
    parts = [(wide(a) * wide(b)).sum(1) for a, b in pairs]
    return torch.cat(parts)


def _features_first(x: Tensor) -> Tensor:
    """(n, tokens): a place reads and writes contiguous rows."""
    return x.reshape(-1, x.shape[-1]).T.contiguous()


def _chunks(k: int, xt: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK * (1 if xt.device.type == "cpu" else AWAY) // max(1, xt.shape[1]))
    return (slice(i, i + size) for i in range(0, k, size))
