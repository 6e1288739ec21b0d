"""Two checkpoints, tensor by tensor: what changed, and by how much. One pair of tensors is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import read_config
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.named import Named
from subspace_tuning.run.skeleton import skeleton

BLOCK = 1 << 20  # numbers that are compared at a time, in double precision
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
    try:
        model = skeleton(B)
    except BadInput:  # of a kind unknown here: its tensors can be compared all the same
        model = nn.Module()
    first, second = Named(A, model), Named(B, model)
    names = [*first.names(), *(name for name in second.names() if name not in first)]
    found = []
    for name in names:
        found.append(_between(name, first, second))
        tick(len(names))
    return found


def _between(name: str, A: Named, B: Named) -> Difference:
    if name not in A:
        return Difference(name, "only in B", B.shape(name))
    if name not in B:
        return Difference(name, "only in A", A.shape(name))
    if A.shape(name) != B.shape(name):
        return Difference(name, "reshaped", B.shape(name))
    first, second = A.stored(name), B.stored(name)
    shape = tuple(first.shape)
    if not first.is_floating_point() or not second.is_floating_point():
        return Difference(name, "same" if torch.equal(first, second) else "changed", shape)
    size = norm = largest = 0.0
    for pair in zip(first.flatten().split(BLOCK), second.flatten().split(BLOCK), strict=True):
        a, b = (part.double() for part in pair)
        for told, value in ((A, a), (B, b)):
            if not value.isfinite().all():
                raise BadInput(f"{name} of {told.name} holds NaN or infinite numbers, which compare with nothing")
        gap = b - a
        size, norm = size + a.square().sum().item(), norm + gap.square().sum().item()
        largest = max(largest, gap.abs().max().item()) if gap.numel() else largest
    relative = (norm / size) ** 0.5 if size else float(norm > 0)
    return Difference(name, "changed" if norm else "same", shape, relative, largest)
