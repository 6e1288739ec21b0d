"""Two checkpoints, tensor by tensor: what changed, and by how much. One pair of tensors is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import read_config
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.skeleton import called, skeleton

STATES = ("same", "changed", "reshaped", "only in A", "only in B")


class Difference(NamedTuple):
    """What became of one tensor."""

    name: str
    state: str  # one of STATES
    shape: tuple[int, ...]
    relative: float | None = None  # ||B - A||_F / ||A||_F
    largest: float | None = None  # of |B - A|


def diff(a: str | Path, b: str | Path, tick: Callable[[int], None] = lambda total: None) -> list[Difference]:
    """Tensors of two checkpoints or adapters, those of A first, then what only B has; by the names of B's model."""
    A, B = Checkpoint(a), Checkpoint(b)
    for checkpoint in (A, B):
        if checkpoint.is_adapter:
            read_config(checkpoint.folder)  # else its tensors could be anything's
    names_a, names_b = _named(A, B)
    names = [*names_a, *(name for name in names_b if name not in names_a)]
    found = []
    for name in names:
        found.append(_between(name, A, names_a.get(name), B, names_b.get(name)))
        tick(len(names))
    return found


def _named(A: Checkpoint, B: Checkpoint) -> tuple[dict[str, str], dict[str, str]]:
    """Name -> key in A and in B: a head's checkpoint has a prefix that its base model's goes without."""
    try:
        model = skeleton(B)
    except BadInput:  # of a kind unknown here: its tensors can be compared all the same
        return {key: key for key in A.keys()}, {key: key for key in B.keys()}  # noqa: SIM118
    return called(A, model), called(B, model)


def _between(name: str, A: Checkpoint, in_a: str | None, B: Checkpoint, in_b: str | None) -> Difference:
    if in_a is None or in_b is None:
        missing = "only in B" if in_a is None else "only in A"
        return Difference(name, missing, B.shape(in_b or "") if in_a is None else A.shape(in_a))
    if A.shape(in_a) != B.shape(in_b):
        return Difference(name, "reshaped", B.shape(in_b))
    first, second = A.stored(in_a), B.stored(in_b)
    shape = tuple(first.shape)
    if not first.is_floating_point() or not second.is_floating_point():
        return Difference(name, "same" if torch.equal(first, second) else "changed", shape)
    for told, key, value in ((A, in_a, first), (B, in_b, second)):
        if not value.double().isfinite().all():
            raise BadInput(f"{key} of {told.name} holds NaN or infinite numbers, which compare with nothing")
    gap, size = second.double() - first.double(), first.double().norm().item()
    norm = gap.norm().item()
    relative = norm / size if size else float(norm > 0)
    largest = gap.abs().max().item() if gap.numel() else 0.0
    return Difference(name, "changed" if norm else "same", shape, relative, largest)
