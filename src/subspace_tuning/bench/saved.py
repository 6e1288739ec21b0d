"""What a method keeps for the backward pass, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import FLOOR, make, source_of
from subspace_tuning.bench.step import Setting, base_model


@dataclass(frozen=True)
class Row:
    """A tensor kept, and whether the floor keeps one like it."""

    mb: float
    shape: tuple[int, ...]
    modules: tuple[str, ...]
    in_floor: bool


def listing(setting: Setting, name: str, peer: bool = False) -> list[Row]:
    """The tensors that a contender keeps. One is in the floor if the floor keeps one of that size in the same modules.

    Tensors of other modules' keeping that the contender reads too (``modules`` then names both) cost nothing more.
    """
    base = base_model(setting)
    batch = measure.random_batch(base, setting.batch, setting.length, setting.device, setting.seed)
    mine, floor = (
        measure.saved_tensors(measure.Step(make(n, s, base, setting.rank), batch))
        for n, s in ((name, source_of(name, peer)), (FLOOR, FLOOR))
    )
    left = Counter((kept.bytes, module) for kept in floor for module in map(_plain, kept.modules[:1]))
    rows = []
    for kept in mine:
        modules = tuple(map(_plain, kept.modules))
        found = next((key for m in modules if left[key := (kept.bytes, m)] > 0), None)
        if found is not None:
            left[found] -= 1
        rows.append(Row(kept.bytes / 1e6, kept.shape, modules, found is not None))
    return rows


def _plain(module: str) -> str:
    """A module's name in the model without adapters."""
    return module.removeprefix("base_model.model.").replace(".base_layer", "")
