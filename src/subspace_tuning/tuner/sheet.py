"""A model's blocks as data: what each weight is for, which methods take it by default, what is fused, what is tied."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from subspace_tuning.method.registry import METHODS
from subspace_tuning.tuner.fused import apart, fused
from subspace_tuning.tuner.heads import heads
from subspace_tuning.tuner.roles import within
from subspace_tuning.tuner.structure import BlockWeight, language_tower, outer_modules, read
from subspace_tuning.tuner.targets import KINDS, sits, taken
from subspace_tuning.weights.slices import Fused


@dataclass(frozen=True)
class Line:
    """One weight in all blocks that are alike: ``name`` is below the block, W in R^{n x m}.

    The slices of a fused weight come after it.
    """

    name: str
    part: str
    role: str
    n: int
    m: int
    kinds: tuple[str, ...]  # kinds of place that it belongs to; none where no method can sit on it
    is_layer: bool
    copies: int
    fused: Fused | None


@dataclass(frozen=True)
class Block:
    """Blocks that are alike, by the names of the first, and how many there are."""

    name: str
    count: int
    by_default: bool  # whether methods go there when nothing is named: another tower has it otherwise
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Sheet:
    """All blocks of a model, and its head.

    tied: tensors -> those that they share their numbers with.
    """

    model: str
    blocks: tuple[Block, ...]
    head: tuple[str, ...]
    tied: dict[str, str]

    def to_data(self) -> dict[str, Any]:
        return {**asdict(self), "methods": by_kind()}


def sheet(model: nn.Module) -> Sheet:
    """What is known of the blocks of a model; the meta device will do."""
    weights, tower = read(model), language_tower(model)
    layers = {kind: sits(model, kind) for kind in KINDS}

    def of(w: BlockWeight) -> Iterator[Line]:
        wanted = {kind: taken(model, w, weights, holds) for kind, holds in KINDS.items() if holds(w)}
        for own in (w, *apart(model, w, weights)):
            kinds = tuple(kind for kind, names in wanted.items() if own in names and w.name in layers[kind])
            layout = fused(model, w, weights) if own is w else None
            yield Line(own.short, own.part, own.role, own.n, own.m, kinds, own.is_layer, own.copies, layout)

    lines = {
        block: tuple(line for w in weights if w.block == block for line in of(w))
        for block in dict.fromkeys(w.block for w in weights)
    }
    blocks = tuple(_alike(lines, tower))
    kind = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    held = {name for name, _ in outer_modules(model)}
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    return Sheet(kind, blocks, tuple(sorted(heads(model) & held)), tied)


def _alike(lines: dict[str, tuple[Line, ...]], tower: str) -> Iterator[Block]:
    """Blocks whose lines are the same, one entry each."""
    same: dict[tuple[str, tuple[Line, ...]], list[str]] = {}
    for block, own in lines.items():
        if own:
            same.setdefault((re.sub(r"\d+", "*", block), own), []).append(block)
    for (_, own), names in same.items():
        yield Block(names[0], len(names), within(names[0], tower), own)


def by_kind() -> dict[str, list[str]]:
    """Kinds of place -> the methods that go there by default."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name, method in METHODS.items():
        if method.sits_on != "tokens" and method.places in found:
            found[method.places].append(name)
    return found
