"""A model's blocks as data: what each weight is for, which methods take it by default, what is fused, what is tied."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from subspace_tuning.method.registry import METHODS
from subspace_tuning.structure.as_pattern import as_pattern
from subspace_tuning.structure.blocks import BlockWeight, beside, language_tower, outer_modules, read
from subspace_tuning.structure.fused import apart, fused
from subspace_tuning.structure.heads import heads
from subspace_tuning.structure.roles import within
from subspace_tuning.tuner.targets import BIASES, KINDS, default_targets, sits, taken, with_bias
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
class Aside:
    """What blocks hold that has no role: W in R^{n x m} of a layer, or a parameter of no layer, which has no seat.

    blocks: how many of the blocks that are alike have it.
    """

    name: str
    shape: tuple[int, ...]
    is_layer: bool
    blocks: int = 1


@dataclass(frozen=True)
class Block:
    """Blocks that are alike, by the names of the first, and how many there are."""

    name: str
    count: int
    by_default: bool  # whether methods go there when nothing is named: another tower has it otherwise
    lines: tuple[Line, ...]
    beside: tuple[Aside, ...]


@dataclass(frozen=True)
class Sheet:
    """All blocks of a model, and its head.

    tied: tensors -> those that they share their numbers with.
    defaults: kinds of place -> the ``target_modules`` that mean them.
    advice: what to name where no kind of place is found.
    """

    model: str
    blocks: tuple[Block, ...]
    head: tuple[str, ...]
    tied: dict[str, str]
    defaults: dict[str, list[str] | str]
    advice: str

    def to_data(self) -> dict[str, Any]:
        return {**asdict(self), "methods": by_kind()}


def sheet(model: nn.Module) -> Sheet:
    """What is known of the blocks of a model; the meta device will do."""
    weights, tower = read(model), language_tower(model)
    layers = {kind: sits(model, kind) for kind in KINDS}
    biased = _biased(model)

    def of(w: BlockWeight) -> Iterator[Line]:
        wanted = {kind: taken(model, w, weights, holds) for kind, holds in KINDS.items() if holds(w)}
        for own in (w, *apart(model, w, weights)):
            kinds = tuple(kind for kind, names in wanted.items() if own in names and w.name in layers[kind])
            kinds += (BIASES,) if own is w and w.name in biased else ()
            layout = fused(model, w, weights) if own is w else None
            yield Line(own.short, own.part, own.role, own.n, own.m, kinds, own.is_layer, own.copies, layout)

    asides = beside(model, weights)
    held = {
        block: (
            tuple(line for w in weights if w.block == block for line in of(w)),
            tuple(Aside(w.short, w.shape, w.is_layer) for w in asides if w.block == block),
        )
        for block in dict.fromkeys([*(w.block for w in weights), *(w.block for w in asides)])
    }
    blocks = tuple(_alike(held, tower))
    kind = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    filled = {name for name, module in outer_modules(model) if any(True for _ in module.parameters())}
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    defaults, advice = _defaults(model, weights)
    return Sheet(kind, blocks, tuple(sorted(heads(model) & filled)), tied, defaults, advice)


def _biased(model: nn.Module) -> set[str]:
    try:
        return with_bias(model, dict(outer_modules(model)))
    except ValueError:
        return set()


def _defaults(model: nn.Module, weights: list[BlockWeight]) -> tuple[dict[str, list[str] | str], str]:
    """What is taken of each kind of place, in the model's order; where there is none of any kind, what to name."""
    every = [name for name, _ in outer_modules(model)]
    every += [own.name for w in weights for own in apart(model, w, weights) if own is not w]
    found: dict[str, list[str] | str] = {}
    advice = ""
    for kind in KINDS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                names = default_targets(kind, model)
        except ValueError as error:
            advice = advice or str(error)
            continue
        order = {short: i for i, name in reversed(list(enumerate(every))) for short in _endings(name)}
        ordered = sorted(names, key=order.__getitem__)
        found[kind] = as_pattern(ordered, every) or ordered
    return found, "" if found else advice


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


Held = tuple[tuple[Line, ...], tuple[Aside, ...]]


def _alike(held: dict[str, Held], tower: str) -> Iterator[Block]:
    """Blocks whose weights are the same, one entry each; where no role is known, those that hold the same."""
    same: dict[Any, list[str]] = {}
    for block, (lines, asides) in held.items():
        same.setdefault((re.sub(r"\d+", "*", block), lines or asides), []).append(block)
    for names in same.values():
        lines, _ = held[names[0]]
        counted = Counter(own for name in names for own in held[name][1])
        asides = tuple(replace(own, blocks=count) for own, count in counted.items())
        yield Block(names[0], len(names), within(names[0], tower), lines, asides)


def by_kind() -> dict[str, list[str]]:
    """Kinds of place -> the methods that go there by default."""
    found: dict[str, list[str]] = {kind: [] for kind in (*KINDS, BIASES)}
    for name, method in METHODS.items():
        if method.sits_on != "tokens" and method.places in found:
            found[method.places].append(name)
    return found
