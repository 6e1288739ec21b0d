"""Penalties on parameters (MPC): their gradient joins that of the loss at the optimiser's step, whatever the loss is.

As AdamW's decay is decoupled from the gradient, a penalty is decoupled from the loss: it counts once a step of the
optimiser, however many micro-batches, whoever computes the loss, and clipping comes before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from subspace_tuning.algebra import Live
from subspace_tuning.method import Params
from subspace_tuning.tuner.clock import Clock, clocks_of
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.whole import leaves, like, whole
from subspace_tuning.weights import Part


def penalty(model: nn.Module) -> Tensor | None:
    """The sum of all penalties (MPC, a method's own) of the active adapters, a number (), or None.

    Nobody needs to add it to a loss: its gradient is added at the optimiser's step. Where it is part of a loss that is
    differentiated, it is not added again at that step.
    """
    terms, charged = [], []
    for clock in clocks_of(model):
        layers = [x for x in clock.layers() if clock.adapter in x.active_adapters and not x.disable_adapters]
        own = [t for x, among in penalised(clock) if x in layers and (t := _term(x, clock.adapter, among)) is not None]
        terms += own
        charged += [clock] if own else []
    if not terms:
        return None
    total = torch.stack([t.to(terms[0].device) for t in terms]).sum()
    if total.requires_grad and not torch.compiler.is_compiling():
        total.register_hook(partial(_mark, charged))
    return total


def _mark(clocks: list[Clock], gradient: Tensor) -> None:
    for clock in clocks:
        clock.in_loss = True


def penalised(clock: Clock) -> list[tuple[SubspaceLayer, int]]:
    """The layers of an adapter that have a penalty, each with the number of all their weights."""
    found = [layer for layer in clock.layers() if layer.methods[clock.adapter].penalises]
    return [(layer, sum(len(each.parts) for each in found)) for layer in found]


def _term(layer: SubspaceLayer, adapter: str, among: int) -> Tensor | None:
    held = layer.values(adapter)
    return _by(layer, adapter, among, lambda name: whole(held[name]))


def _by(layer: SubspaceLayer, adapter: str, among: int, read: Callable[[str], Tensor]) -> Tensor | None:
    outlines = {k: torch.empty(t.shape, dtype=t.dtype, device="meta") for k, t in layer.values(adapter).items()}
    terms = []
    for part in layer.parts:
        own = {k: Live(partial(_part, part, read, k), outline=part.of(t)) for k, t in outlines.items()}
        terms.append(layer.methods[adapter].penalty(Params(own), among))
    found = [term for term in terms if term is not None]
    return sum(found[1:], found[0]) if found else None


def _part(part: Part, read: Callable[[str], Tensor], name: str) -> Tensor:
    return part.of(read(name))


def charge(clock: Clock, moved: Collection[int]) -> Tensor | None:
    """Add the penalty's gradient to that of the parameters (ids) that an optimiser is about to move; the penalty."""
    terms = [t for layer, among in penalised(clock) if (t := _charge(layer, clock.adapter, among, moved)) is not None]
    return torch.stack([t.to(terms[0].device) for t in terms]).sum() if terms else None


def _charge(layer: SubspaceLayer, adapter: str, among: int, moved: Collection[int]) -> Tensor | None:
    held = layer.values(adapter)
    made, read = leaves(held)
    with torch.enable_grad():
        term = _by(layer, adapter, among, read)
    mine = [k for k, leaf in made.items() if leaf.requires_grad and id(held[k]) in moved]
    if term is None or not mine:
        return None
    gradients = torch.autograd.grad(term, [made[k] for k in mine], allow_unused=True)
    for name, g in zip(mine, gradients, strict=True):
        if g is not None:
            p = held[name]
            g = like(p, g)
            p.grad = g if p.grad is None else p.grad.add_(g.to(p.grad.dtype))
    return term.detach()
