"""The tuned layer of a fused parameter of experts: phi(W_i) for each, its parameters stacked (e, ...).

The equation is built once, and reads the parameters of the expert that is at work. Rows come sorted by expert. Each
expert's are taken up to W (phi is cut there), meet W together in the product that the module itself would compute, and
go on from their part of it. Nothing of W's size is formed but where a method declares it, for one expert at a time.
Where many experts have a few rows each, thin equations of all are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from subspace_tuning.algebra import Live
from subspace_tuning.method import Method, Params, members
from subspace_tuning.tuner.at_once import Lanes, Own, Thin, few, filled
from subspace_tuning.tuner.layer import Share, SubspaceLayer
from subspace_tuning.tuner.reading import Reading, Route
from subspace_tuning.tuner.start import Started, start
from subspace_tuning.weights import LayerWeight, Part, Unsupported
from subspace_tuning.weights.experts import Experts, ExpertWeight, Unreadable, apart, stacked


class SubspaceExperts(SubspaceLayer):
    """Rows x_i -> x_i phi(W_i), i their expert; read by the module that keeps the experts as if it were a tensor."""

    def __init__(self, base_layer: Experts):
        super().__init__(base_layer)
        self._frozen = ExpertWeight(base_layer)
        self._beneath = ExpertWeight(base_layer, biased=False)
        self._bias = None if base_layer.bias is None else Live(partial(getattr, self._frozen, "own_bias"))
        self.lanes = Lanes(self._frozen)
        self.is_thin = Thin()

    @property
    def fused(self) -> Experts:
        """The frozen weights of all experts."""
        return cast(Experts, self.base_layer)

    @property
    def frozen(self) -> LayerWeight:
        """W of the expert that is at work."""
        return self._frozen

    @property
    def beneath(self) -> tuple[LayerWeight, Live | None]:
        return self._beneath, self._bias

    @property
    def parts(self) -> list[Part]:
        """The weights of the experts, one by one."""
        return [Part(str(i), ExpertWeight(self.fused, i), partial(_at, i)) for i in range(self.fused.count)]

    def together(self, each: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {k: stacked([one[k] for one in each]) for k in each[0]}

    def shares(self, x: Tensor, *args: Any) -> list[Share]:
        """Of the rows of one expert, as if they were of one example."""
        routes: list[Route] = args[0]
        return [Share(r.expert, x[r.start : r.stop].detach().unsqueeze(0), partial(_rows, r)) for r in routes]

    def each(self, experts: Iterable[int] | None = None) -> Iterator[int]:
        """Put one expert to work after the other."""
        fused = self.fused
        try:
            for i in range(fused.count) if experts is None else experts:
                fused.at = i
                yield i
        finally:
            fused.at = 0

    def start(self, method: Method) -> Started:
        for part in members(method):
            if part.sits_on not in ("weight", "bias"):
                raise Unsupported(
                    f"{part.name} sits on a module's {part.sits_on}, and experts are weights; leave it out"
                )
        if method.shared:
            raise Unsupported(
                f"{method.name} shares parameters between layers, and fused experts are many weights in one layer; "
                "leave them out by exclude_modules"
            )
        each = [start(method, self.frozen.known_as(f"{self.path}.{i}"), self.like) for i in self.each()]
        return Started(*(self.together([one[i] for one in each]) for i in range(3)))

    def shapes(self, adapter: str) -> dict[str, tuple[int, ...]]:
        return {k: (len(self.parts), *shape) for k, shape in super().shapes(adapter).items()}

    def packed(self, adapter: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """By expert where the method has another form for them, which need not be of one size: name@i."""
        each = [self.methods[adapter].packed({k: part.of(v) for k, v in values.items()}) for part in self.parts]
        if all(set(one) == set(values) for one in each):
            return values
        return {f"{name}@{i}": value for i, one in enumerate(each) for name, value in one.items()}

    def unpacked(self, adapter: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
        method, size, constants = self.methods[adapter], self.frozen.shape, self.constants(adapter)
        made = [{k: part.of(v) for k, v in constants.items()} for part in self.parts]
        both = zip(apart(values, self.fused.count), made, strict=True)
        return self.together([method.unpacked(own, of_W, *size) for own, of_W in both])

    def params(self, adapter: str, training: bool = False) -> Params:
        """The parameters and constants of an adapter as phi reads them: those of the expert that is at work."""
        live = {k: Own(group, k, self.lanes) for group in self.held(adapter) for k in group}
        return Params(live, training)

    def forward(
        self, x: Tensor, routes: list[Route], product: Callable[[Tensor, Tensor], Tensor], **kwargs: Any
    ) -> Tensor:
        """x (rows, n), sorted as the routes say -> (rows, m); ``product`` is what the module does to x and weights."""
        if kwargs:
            raise ValueError(
                "adapter_names picks an adapter for each sample, and experts take the tokens of all samples together: "
                "leave the experts out by exclude_modules, or call the model once for each adapter"
            )
        adapters = self.working()
        if not adapters:
            return product(x, self.fused.weight)
        self.check_read(adapters)
        made = self.tuned(adapters, self.training)
        if made.E is made.W:
            return product(x, self.fused.weight)
        with self.lanes.taken_apart():
            return self._routed(x, routes or [Route(0, 0, 0)], product, adapters)

    def _routed(self, x: Tensor, routes: list[Route], product: Callable[..., Tensor], adapters: list[str]) -> Tensor:
        made, halves = self.tuned(adapters, self.training), self.halves(adapters)
        noisy = self.training and any(self.methods[adapter].noisy for adapter in adapters)
        if halves is not None and not noisy and few(routes) and self.is_thin(halves, *made.W.shape):
            with suppress(Unreadable):
                return filled(self, x, routes, product, adapters)
        rows = [x[route.start : route.stop] for route in routes]
        rest = x[routes[-1].stop :]  # rows that belong to no expert here
        experts = [route.expert for route in routes]
        if halves is None:
            done = [made.E.apply(own) for own, _ in zip(rows, self.each(experts), strict=True)]
            return torch.cat([*done, done[0].new_zeros(len(rest), made.E.shape[1])])
        z = x
        if halves.before:
            z = torch.cat([*(halves.meets_W(own) for own, _ in zip(rows, self.each(experts), strict=True)), rest])
        y = product(z, self.fused.weight)
        parts = [y[route.start : route.stop] for route in routes]
        both = zip(rows, parts, self.each(experts), strict=True)
        return torch.cat([*(halves.finish(own, part, None) for own, part, _ in both), y[routes[-1].stop :]])

    def biases(self) -> Tensor:
        """(e, m): the biases, tuned."""
        adapters = self.working()
        b = self.tuned(adapters, self.training).b if adapters else self._bias
        if b is self._bias or b is None:
            assert self.fused.bias is not None
            return self.fused.bias
        with self.lanes.taken_apart():
            return torch.stack([b.now() for _ in self.each()]).to(self.frozen_weight.dtype)

    def weights(self, adapters: list[str]) -> Tensor:
        """(e, n, m): phi(W_i) of all experts, built whole."""
        E = self.tuned(adapters).E
        return torch.stack([E.dense().to(self.frozen_weight.dtype) for _ in self.each()])

    def merged_values(self, adapters: list[str]) -> tuple[Tensor | None, Tensor | None]:
        W, E, b, _ = self.tuned(adapters)
        weight = None if E is W else self.weights(adapters).detach()
        bias = None if b is None or b is self._bias else torch.stack([b.now().detach() for _ in self.each()])
        return weight, bias

    def __getattr__(self, name: str) -> Any:
        """What owners read of the tensor that stood here."""
        if name in Reading.KNOWN:
            return getattr(Reading(self), name)
        return super().__getattr__(name)

    def __getitem__(self, at: Any) -> Any:
        return Reading(self)[at]

    def __len__(self) -> int:
        return self.fused.count

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Reading.__torch_function__(
            func, types, [_read(a) for a in args], {k: _read(v) for k, v in (kwargs or {}).items()}
        )


def _at(i: int, t: Tensor) -> Tensor:
    return t[i]


def _rows(route: Route, y: Tensor) -> Tensor:
    return y[route.start : route.stop].unsqueeze(0)


def _read(value: Any) -> Any:
    return Reading(value) if isinstance(value, SubspaceExperts) else value
