"""Columns of a fused weight that serve one role, as a weight of their own: the keys of GPT-2's c_attn, say.

The fused layer stays where it is and computes what it did; a hook puts what is tuned in place of its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.weights.layer import OURS, LayerWeight, Unsupported
from subspace_tuning.weights.parametrised import made_of
from subspace_tuning.weights.written import WAYS_OUT, Survived

SEAT = "_slices_seat"  # of a fused layer: where its slices stand


@dataclass(frozen=True)
class Fused:
    """Columns of a fused weight: ``groups`` times a run of roles, each with its number of columns.

    GPT-2: 1 x (query d, key d, value d); GPT-NeoX: heads x (query h, key h, value h).
    """

    groups: int
    run: tuple[tuple[str, int], ...]

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.groups * sum(size for _, size in self.run)

    def of(self, role: str, t: Tensor) -> Tensor:
        """The columns of a role in t (..., m), in their order."""
        start = 0
        for own, size in self.run:
            if own == role:
                return t.unflatten(-1, (self.groups, -1)).narrow(-1, start, size).flatten(-2)
            start += size
        raise ValueError(f"no column is called {role!r}; there are {', '.join(own for own, _ in self.run)}")

    def with_parts(self, t: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """t (..., m) with other columns for some roles."""
        runs = t.unflatten(-1, (self.groups, -1)).split([size for _, size in self.run], -1)
        roles = [role for role, _ in self.run]
        pairs = zip(roles, runs, strict=True)
        new = [parts[role].unflatten(-1, (self.groups, -1)) if role in parts else own for role, own in pairs]
        return torch.cat(new, -1).flatten(-2)

    def columns(self, role: str) -> Tensor:
        """The places among the m columns that belong to a role, in their order."""
        return self.of(role, torch.arange(self.width))


class Slice(nn.Module):
    """The columns of one role in a fused layer. It holds no numbers: they are the fused layer's.

    made: while that layer is at work, its input and output; () where this slice asks it for a product of its own.
    """

    def __init__(self, host: nn.Module, fused: Fused, role: str):
        super().__init__()
        self._of = (host,)  # in a tuple: the host is no part of its slice
        self.fused, self.role = fused, role
        self.made: tuple[Tensor, ...] | None = None

    @property
    def host(self) -> nn.Module:
        return self._of[0]

    @property
    def weight(self) -> Any:
        """In the layout of the host's."""
        own: Any = self.host.weight
        return self.of(own) if own.shape[-1] == self.fused.width else self.of(own.T).T

    @property
    def bias(self) -> Tensor | None:
        own: Any = self.host.bias
        return None if own is None else self.of(own)

    def of(self, t: Tensor) -> Tensor:
        return self.fused.of(self.role, t)

    def forward(self, x: Tensor) -> Tensor:
        if self.made and x is self.made[0]:
            return self.of(self.made[1])
        return self.of(self.frozen(self.host, x))

    def frozen(self, product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What the host makes of x when nothing is tuned."""
        held, self.made = self.made, self.made or ()
        try:
            return product(x)
        finally:
            self.made = held

    def extra_repr(self) -> str:
        return f"{self.fused.groups} x {dict(self.fused.run)[self.role]} columns"


class SliceWeight(LayerWeight):
    """W of one role: columns of the whole, which other slices may change at the same time."""

    def __init__(self, layer: Slice, whole: LayerWeight):
        self.layer, self.whole = layer, whole
        self.shape = whole.shape[0], layer.fused.groups * dict(layer.fused.run)[layer.role]
        self.quantised = whole.quantised

    def dense(self) -> Tensor:
        return self.layer.of(self.whole.dense())

    @property
    def own_bias(self) -> Tensor | None:
        own = self.whole.own_bias
        return None if own is None else self.layer.of(own)

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    @property
    def stored(self) -> Tensor:
        return self.whole.stored

    def forward(self, x: Any) -> Tensor:
        made = self.layer.made
        return self.layer(x) if made and x is made[0] else self._by(self.whole.forward, x, self.own_bias)

    def product(self, x: Any) -> Tensor:
        return self._by(self.whole.product, x, None)

    def _by(self, product: Callable[[Any], Tensor], x: Any, bias: Tensor | None) -> Tensor:
        """x W of this slice alone where its columns are a part of the memory, else of the whole."""
        if self.layer.fused.groups == 1 and not self.quantised and self.whole._is_plain():
            return F.linear(x, self.dense().T, bias)
        return self.layer.of(self.layer.frozen(product, x))

    def as_stored(self, W: Tensor) -> Tensor:
        return self.whole.as_stored(W)

    def assign(self, W: Tensor | None, bias: Tensor | None) -> None:
        if self.quantised and W is not None:
            self.take(W)
        if made_of(self.layer.host, "weight") is not None:
            raise Unsupported("nothing here can write into columns of a weight that is computed; name the whole of it")
        self.whole.assign(*(None if t is None else self._among(k, t) for k, t in (("weight", W), ("bias", bias))))

    def take(self, W: Tensor) -> Survived:
        raise Unsupported(f"nothing here can write into columns of a quantised weight; {WAYS_OUT}")

    def _among(self, name: str, columns: Tensor) -> Tensor:
        whole = self._whole(name)
        return self.layer.fused.with_parts(whole, {self.layer.role: columns.to(whole)})

    def _whole(self, name: str) -> Any:
        return self.whole.dense() if name == "weight" else self.whole.own_bias

    def part(self, name: str) -> nn.Parameter:
        return nn.Parameter(self.layer.of(self._whole(name)).detach().clone(), requires_grad=False)

    def put(self, name: str, part: nn.Parameter) -> None:
        if name == "weight" and self.quantised:  # which is never written
            return
        if not self._whole(name).is_meta:
            self.whole.assign(
                *((self._among(name, part), None) if name == "weight" else (None, self._among(name, part)))
            )

    def renew(self, name: str) -> None:
        if not self.quantised:
            self.whole.renew(name)


def tuned_apart(host: nn.Module, args: Any, kwargs: Any, y: Tensor) -> Tensor:
    """A hook: the output of a fused layer, with the columns of its tuned slices in their place."""
    return with_slices(host, args[0] if args else next(iter(kwargs.values())), y)


OURS.add(tuned_apart)


def with_slices(host: nn.Module, x: Tensor, y: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """y, which a fused layer makes of x, with the columns of its tuned slices in their place.

    names: the adapter of each row of a mixed batch; without them the active ones.
    """
    layers = {layer.get_base_layer().role: layer for layer in tuned_slices(host)}
    slices: list[Any] = [layer.get_base_layer() for layer in layers.values()]
    if not slices or any(s.made is not None for s in slices):
        return y
    for s in slices:
        s.made = (x, y)
    try:
        made = {k: v(x) if names is None else v.forward(x, adapter_names=names) for k, v in layers.items()}
        return slices[0].fused.with_parts(y, made)
    finally:
        for s in slices:
            s.made = None


@contextmanager
def as_whole(host: nn.Module) -> Iterator[None]:
    """Within this, a fused layer computes without its slices."""
    slices: list[Any] = [layer.get_base_layer() for layer in tuned_slices(host)]
    held = [s.made for s in slices]
    for s in slices:
        s.made = s.made or ()
    try:
        yield
    finally:
        for s, made in zip(slices, held, strict=True):
            s.made = made


def seat_of(host: nn.Module) -> nn.Module:
    """The module under which the slices of a fused layer stand: itself, or the tuned layer that it is in."""
    return host.__dict__.get(SEAT, (host,))[0]


def tuned_slices(host: nn.Module) -> list[Any]:
    """The tuned layers that sit on slices of a fused one."""
    if not (beneath := seat_of(host)._modules):
        return []
    layers: list[Any] = [child for child in beneath.values() if isinstance(child, BaseTunerLayer)]
    return [layer for layer in layers if isinstance(layer.get_base_layer(), Slice)]


def seat_slices(host: nn.Module, fused: Fused) -> None:
    """Make modules of the slices of a fused layer, under their roles, so that they can be tuned."""
    seat = seat_of(host)
    for role, _ in fused.run:
        if role not in seat._modules:
            seat.add_module(role, Slice(host, fused, role))
    if tuned_apart not in host._forward_hooks.values():
        host.register_forward_hook(tuned_apart, with_kwargs=True)


def move_slices(host: nn.Module, seat: nn.Module) -> None:
    """Put the slices of a fused layer under itself, or under the tuned layer that it is in: their names stay."""
    slices = {k: child for k, child in seat_of(host)._modules.items() if child in tuned_slices(host)}
    for role, child in slices.items():
        del seat_of(host)._modules[role]
        seat.add_module(role, child)
    host.__dict__.pop(SEAT, None)
    if seat is not host:
        host.__dict__[SEAT] = (seat,)  # in a tuple: the seat is no part of its host


def unseat_slices(model: nn.Module) -> None:
    """Take the slices away again that are not tuned, and the hook where none is."""
    modules = set(model.modules())
    for module in modules:
        for role, child in list(module._modules.items()):
            if isinstance(child, Slice) and child.role == role:
                del module._modules[role]
    for host in modules:
        if seat_of(host) not in modules:
            del host.__dict__[SEAT]
        if tuned_apart in host._forward_hooks.values() and not tuned_slices(host):
            for key in [k for k, hook in host._forward_hooks.items() if hook is tuned_apart]:
                del host._forward_hooks[key], host._forward_hooks_with_kwargs[key]
