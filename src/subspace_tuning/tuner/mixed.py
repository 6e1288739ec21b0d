"""A batch whose rows go by different adapters: the frozen weight meets all of them in one product.

phi(W) of each adapter is cut in front of W: what its own rows have become there (x D1, say) is joined with what those
of the others have, and each adapter goes on from its part of the product. Where no gradient is asked for, adapters of
one method with equally many rows are computed at once, their parameters stacked.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from subspace_tuning.algebra import Dense, Diag, Weight
from subspace_tuning.algebra.cut import Cut, halves
from subspace_tuning.method import Method, Params

Step = Generator[Any, Any, None]
STACK = 3  # adapters: fewer are as fast one by one
SHARE = 4  # adapters with more than 1 / SHARE of the weight's own numbers are not worth a copy


class Seats(Protocol):
    """What is asked of a layer with several adapters."""

    training: bool
    base_layer: Any
    methods: dict[str, Method]

    def at_work(self, adapter: str) -> Method: ...
    @property
    def merged(self) -> bool: ...
    @property
    def frozen(self) -> Weight: ...
    def tuned(self, adapters: list[str], training: bool = False) -> Any: ...
    def tuned_forward(self, x: Tensor, adapters: list[str]) -> Tensor: ...
    def halves(self, adapters: list[str]) -> Cut | None: ...
    def held(self, adapter: str) -> list[Any]: ...
    def whole(self) -> AbstractContextManager[None]: ...
    def in_slices(self, x: Tensor, y: Tensor, names: Sequence[str]) -> Tensor: ...


class Group(NamedTuple):
    """Adapters of one method with equally many rows each, and these rows of the batch."""

    names: list[str]
    rows: list[int]


def mixed(layer: Seats, x: Tensor, names: Sequence[str]) -> Tensor:
    """Each row of the batch by its own adapter; any other name stands for none."""
    if layer.merged:
        raise ValueError("adapter_names needs unmerged adapters; call unmerge_adapter() first")
    if len(names) != len(x):
        raise ValueError(f"adapter_names names one adapter a sample: got {len(names)} for {len(x)} samples")
    groups = _groups(layer, names)
    parts = [_rows(x, g.rows) for g in groups]
    steps = [_step(layer, g, part) for g, part in zip(groups, parts, strict=True)]
    with layer.whole():
        met = [next(step) for step in steps]  # None for those that go their own way
        joined = [z for z in met if z is not None]
        unchanged = all(z is part for z, part in zip(met, parts, strict=True))
        y = layer.base_layer(x if unchanged and _in_order(groups) else torch.cat(joined)) if joined else x[:0]
        products = iter(y.split([len(z) for z in joined]))
        done = [step.send(None if z is None else next(products)) for z, step in zip(met, steps, strict=True)]
    for i, group in enumerate(groups):
        if not group.names[0]:
            done[i] = layer.in_slices(parts[i], done[i], [names[row] for row in group.rows])
    out = torch.cat(done)
    if _in_order(groups):
        return out
    back = torch.tensor([row for g in groups for row in g.rows]).argsort()
    return out[back.to(x.device)]


def _groups(layer: Seats, names: Sequence[str]) -> list[Group]:
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name if name in layer.methods else "", []).append(i)
    alike: dict[Any, Group] = {}
    for name, own in rows.items():
        key = (layer.at_work(name), len(own)) if name and stackable(layer, name) else name
        group = alike.setdefault(key, Group([], []))
        group.names.append(name)
        group.rows.extend(own)
    found: list[Group] = []
    for group in alike.values():
        whole = len(group.names) >= STACK or len(group.names) == 1
        found += [group] if whole else [Group([name], rows[name]) for name in group.names]
    return found


def stackable(layer: Seats, name: str) -> bool:
    """Whether the parameters of an adapter are worth being computed at once, stacked."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or layer.training:
        return False
    W, E, _, after = layer.tuned([name])
    leaves = [*E.leaves(), *(() if after is None else after.leaves())]
    if layer.halves([name]) is None or not all(isinstance(leaf, Weight | Dense | Diag) for leaf in leaves):
        return False
    n, m = W.shape
    return bool(SHARE * sum(t.numel() for group in layer.held(name) for t in group.values()) <= n * m)


def _in_order(groups: list[Group]) -> bool:
    return all(row == i for i, row in enumerate(row for g in groups for row in g.rows))


def _rows(x: Tensor, rows: list[int]) -> Tensor:
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows) and rows == list(range(first, last + 1)):
        return x[first : last + 1]
    return x[torch.tensor(rows, device=x.device)]


def _step(layer: Seats, group: Group, x: Tensor) -> Step:
    """Yields what meets W, is sent what W makes of it, and yields the output of these rows."""
    first = group.names[0]
    if not first:
        yield (yield x)
    elif len(group.names) > 1:
        yield from _stacked(layer, group, x)
    else:
        W, _, b, after = layer.tuned([first], layer.training)
        halves = layer.halves([first]) if W.rows(x) is x else None
        if halves is None:
            yield None
            yield layer.tuned_forward(x, [first])
            return
        y = halves.finish(x, (yield halves.meets_W(x)), None if b is None else b.now())
        yield y if after is None else after.apply(y)


def _stacked(layer: Seats, group: Group, x: Tensor) -> Step:
    """All adapters of a group at once: their parameters and rows stacked along a first dimension."""
    W, k = layer.frozen, len(group.names)
    method = layer.at_work(group.names[0])
    each = [{key: t for held in layer.held(name) for key, t in held.items()} for name in group.names]
    values = {key: torch.stack([v[key] for v in each]) for key in each[0]}
    stacked = x.view(k, -1, *x.shape[1:])
    z = torch.vmap(partial(meets, method, W))(values, stacked)
    y = yield z.flatten(0, 1)
    done = torch.vmap(partial(finished, method, W))(values, stacked, y.view(k, -1, *y.shape[1:]))
    yield done.flatten(0, 1)


def meets(method: Method, W: Weight, values: dict[str, Tensor], x: Tensor) -> Tensor:
    """What of the rows x meets W."""
    return halves(method.phi(W, Params(values)), W).meets_W(x)


def finished(method: Method, W: Weight, values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """x phi(W), with the bias unless it is somebody else's, given what W makes of ``meets``."""
    p = Params(values)
    out = halves(method.phi(W, p), W).finish(x, y, method.bias(W.own_bias, p))
    after = method.output(W.shape[1], p)
    return out if after is None else after.apply(out)
