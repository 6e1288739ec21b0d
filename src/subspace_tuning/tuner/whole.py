"""Parameters as whole tensors, however they are kept: FSDP2 and tensor parallelism keep pieces of them (DTensor)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from subspace_tuning.algebra import Weight


def whole(t: Tensor) -> Tensor:
    """All of a tensor; gathered, on every process, where each holds a piece."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def like(t: Tensor, full: Tensor) -> Tensor:
    """A whole tensor, kept as t is."""
    if not isinstance(t, DTensor):
        return full
    replicated = [Replicate()] * t.device_mesh.ndim
    return DTensor.from_local(full, t.device_mesh, replicated, run_check=False).redistribute(placements=t.placements)


class Values(Mapping[str, Tensor]):
    """Parameters by name, to read and change in place, with their gradients.

    Pieces are gathered when they are asked for (by all processes alike); ``put_back`` distributes what was gathered.
    """

    def __init__(self, held: Mapping[str, Tensor], gathered: dict[str, Tensor] | None = None, prefix: str = ""):
        self._held, self._prefix = held, prefix
        self._gathered: dict[str, Tensor] = {} if gathered is None else gathered

    def __getitem__(self, name: str) -> Tensor:
        name = self._prefix + name
        t = self._held[name]
        if not isinstance(t, DTensor):
            return t
        if name not in self._gathered:
            full = self._gathered[name] = whole(t.detach())
            full.grad = None if t.grad is None else whole(t.grad)
        return self._gathered[name]

    def __iter__(self) -> Iterator[str]:
        return (k.removeprefix(self._prefix) for k in self._held if k.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def within(self, prefix: str) -> Values:
        """Those whose name starts with the prefix, without it."""
        return Values(self._held, self._gathered, self._prefix + prefix)

    @property
    def device(self) -> torch.device:
        return next(iter(self._held.values())).device

    def put_back(self) -> None:
        for name, full in self._gathered.items():
            t = self._held[name]
            t.copy_(like(t, full))
            t.grad = None if full.grad is None else like(t, full.grad)
        self._gathered.clear()


class PartValues(Values):
    """What one of several weights has of the parameters that they share: views, with the gradients as views too."""

    def __init__(self, held: Mapping[str, Tensor], of: Callable[[Tensor], Tensor]):
        self._all, self._of = held, of
        super().__init__({name: self._part(t) for name, t in held.items()})

    def _part(self, t: Tensor) -> Tensor:
        part = self._of(t.detach())
        part.grad = None if t.grad is None else self._of(t.grad)
        return part

    def put_back(self) -> None:
        """A part without a gradient is not to move."""
        for name, t in self._all.items():
            if t.grad is not None and self._held[name].grad is None:
                self._of(t.grad).zero_()


class WholeWeight(Weight):
    """The frozen weight W of a layer that may be kept in pieces, to be read."""

    def __init__(self, W: Weight):
        self._of = W
        self.shape = W.shape

    def dense(self) -> Tensor:
        return whole(self._of.dense())


def leaves(held: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], partial[Tensor]]:
    """Detached copies of whole tensors to differentiate by, made when they are first read."""
    made: dict[str, Tensor] = {}
    return made, partial(_leaf, made, held)


def _leaf(made: dict[str, Tensor], held: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in made:
        t = held[name]
        with torch.no_grad():
            made[name] = whole(t.detach())
        made[name] = made[name].detach().requires_grad_(t.requires_grad)
    return made[name]
