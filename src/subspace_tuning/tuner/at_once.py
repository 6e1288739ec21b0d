"""Thin equations of all experts at once, where many experts have a few rows each: one batched product a factor.

Their rows are filled up to those of the busiest. Numbers that an equation makes of an expert's parameters (1 + delta)
are made for all of them by ``torch.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


def thin(halves: Cut, n: int, m: int) -> bool:
    """Whether phi is made of so few plain numbers that those of all experts can be at work."""
    before = sum(held_in(E) for E in halves.before)
    return not torch.compiler.is_compiling() and before + held_in(halves.E) <= SHARE * n * m


def filled(layer: Any, x: Tensor, routes: list[Route], product: Callable[..., Tensor], adapters: list[str]) -> Tensor:
    """x (rows, n), sorted as the routes say -> (rows, m), of a layer of experts."""
    halves, count, where = layer.halves(adapters), layer.fused.count, x.device
    first, last = torch.tensor([r[1:] for r in routes], device=where).unsqueeze(2).unbind(1)
    at = first + torch.arange(max(r.stop - r.start for r in routes), device=where)  # (experts, rows)
    own = (at < last).flatten().nonzero().squeeze(1)
    at = torch.minimum(at, last - 1)
    experts = None if len(routes) == count else torch.tensor([r.expert for r in routes], device=where)

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

    rows, rest, z = x[at], x[routes[-1].stop :], x
    if halves.before:
        made = rows
        for E in halves.before:
            made = at_once(E, made, None, numbers)
        z = torch.cat([made.flatten(0, 1)[own], rest])
    y = product(z, layer.fused.weight)
    done = at_once(halves.E, rows, y[at], numbers).flatten(0, 1)[own]
    return torch.cat([done, y[routes[-1].stop :]]) if len(rest) else done
