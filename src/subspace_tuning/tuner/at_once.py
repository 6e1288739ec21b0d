"""Thin equations of all experts at once, where many experts have a few rows each: one batched product a factor.

Their rows are filled up to those of the busiest. Numbers that an equation makes of an expert's parameters (1 + delta)
are made for all of them by ``torch.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subspace_tuning.algebra import Live
from subspace_tuning.algebra.cut import Cut
from subspace_tuning.algebra.stacked import at_once, held_in
from subspace_tuning.tuner.reading import Route
from subspace_tuning.weights.experts import ExpertWeight

LEAST = 3  # experts: fewer are as fast one by one
FEW, FILLED = 24, 4  # rows an expert, and times the rows when filled up: beyond, too
SHARE = 1.0  # of W's numbers: equations whose factors hold more are computed expert by expert


class Own(Live):
    """A parameter or constant of the expert that is at work."""

    def __init__(self, group: Any, name: str, lanes: Lanes):
        self.group, self.name, self.lanes = group, name, lanes
        super().__init__(self._now)

    def _now(self) -> Tensor:
        return self.lanes.read(self.whole)

    @property
    def whole(self) -> Tensor:
        """(e, ...): of all experts."""
        whole: Tensor = self.group[self.name]
        return whole

    @property
    def requires_grad(self) -> bool:
        return self.whole.requires_grad


class Lanes:
    """What is stacked (e, ...), read for the expert that is at work, or for all at once."""

    def __init__(self, W: ExpertWeight):
        self.W = W
        self.apart: dict[int, tuple[Tensor, ...]] | None = None  # by expert, during one forward
        self.lanes: dict[int, Tensor] | None = None

    def read(self, whole: Tensor) -> Tensor:
        key = id(whole)
        if self.lanes is not None:
            return self.lanes[key]
        if self.apart is None:
            return whole[self.W.at]
        if key not in self.apart:
            self.apart[key] = whole.unbind(0)  # its gradient is put together once, not once an expert
        return self.apart[key][self.W.at]

    @contextmanager
    def taken_apart(self) -> Iterator[None]:
        self.apart = {}
        try:
            yield
        finally:
            self.apart = None

    def all(self, held: list[Tensor], values: list[Tensor], made: Live) -> Tensor:
        """(e, ...): what an equation makes of these values of what is held, for each expert."""

        def one(values: list[Tensor]) -> Tensor:
            self.lanes = {id(t): v for t, v in zip(held, values, strict=True)}
            self.W.layer.at = None
            try:
                return made.now()
            finally:
                self.lanes, self.W.layer.at = None, 0

        return torch.vmap(one)(values)


def few(routes: list[Route]) -> bool:
    """Whether many experts have few rows each, and filled up to those of the busiest not many more."""
    lengths, count = [r.stop - r.start for r in routes], len(routes)
    return count >= LEAST and sum(lengths) <= FEW * count and count * max(lengths) <= FILLED * sum(lengths)


class Thin:
    """Whether phi is made of so few plain numbers that those of all experts can be at work; counted once for each."""

    def __init__(self) -> None:
        self.halves: Cut | None = None
        self.share = float("inf")

    def __call__(self, halves: Cut, n: int, m: int) -> bool:
        if self.halves is not halves:
            held = sum(held_in(E) for E in halves.before) + held_in(halves.E)
            self.halves, self.share = halves, held / (n * m)
        return self.share <= SHARE and not torch.compiler.is_compiling()


class Filled:
    """Rows sorted as the routes say, as (experts, rows of the busiest): the shorter ones repeat their last."""

    def __init__(self, routes: list[Route], device: torch.device):
        first, last = np.array([r[1:] for r in routes]).T[:, :, None]
        at = first + np.arange((last - first).max())
        self.shape = at.shape
        self.own = torch.from_numpy(np.flatnonzero(at < last)).to(device)
        self.at = torch.from_numpy(np.minimum(at, last - 1).ravel()).to(device)

    def up(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.at).view(*self.shape, -1)

    def down(self, y: Tensor) -> Tensor:
        return y.flatten(0, 1).index_select(0, self.own)


def filled(layer: Any, x: Tensor, routes: list[Route], product: Callable[..., Tensor], adapters: list[str]) -> Tensor:
    """x (rows, n), sorted as the routes say -> (rows, m), of a layer of experts."""
    halves, fused = layer.halves(adapters), layer.fused
    rows, end = Filled(routes, x.device), routes[-1].stop
    every = len(routes) == fused.count
    experts = None if every else torch.tensor([r.expert for r in routes], device=x.device)

    def of_all(whole: Tensor) -> Tensor:
        return whole if experts is None else whole[experts]

    def numbers(of: Tensor | Live) -> Tensor:
        if isinstance(of, Own):
            return of_all(of.whole)
        if isinstance(of, Tensor):
            return of.expand(len(routes), *of.shape)
        held = [group[k] for adapter in adapters for group in layer.held(adapter) for k in group]
        lanes: Lanes = layer.lanes
        return lanes.all(held, [of_all(t) for t in held], of)

    own, rest, z = rows.up(x), x[end:], x
    if halves.before:
        made = own
        for E in halves.before:
            made = at_once(E, made, None, numbers)
        z = torch.cat([rows.down(made), rest])
    y = product(z, fused.weight)
    done = rows.down(at_once(halves.E, own, rows.up(y), numbers))
    return torch.cat([done, y[end:]]) if len(rest) else done
