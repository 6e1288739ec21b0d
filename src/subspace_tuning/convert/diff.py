"""Two checkpoints, tensor by tensor: what changed, and by how much. One pair of tensors is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.pretrained import location

STATES = ("same", "changed", "reshaped", "only in A", "only in B")


class Difference(NamedTuple):
    """What became of one tensor."""

    name: str
    state: str  # one of STATES
    shape: tuple[int, ...]
    relative: float | None = None  # ||B - A||_F / ||A||_F
    largest: float | None = None  # of |B - A|


def diff(a: str | Path, b: str | Path, tick: Callable[[int], None] = lambda total: None) -> list[Difference]:
    """Tensors of two folders of safetensors (checkpoints or adapters), in the order of A, then what only B has."""
    held_a, held_b = _files(a), _files(b)
    names = [*held_a, *(name for name in held_b if name not in held_a)]
    found = []
    for name in names:
        found.append(_between(name, held_a.get(name), held_b.get(name)))
        tick(len(names))
    return found


def _between(name: str, a: Path | None, b: Path | None) -> Difference:
    if a is None or b is None:
        held = _read(name, a or b)
        return Difference(name, "only in A" if b is None else "only in B", tuple(held.shape))
    A, B = _read(name, a), _read(name, b)
    if A.shape != B.shape:
        return Difference(name, "reshaped", tuple(B.shape))
    if not A.is_floating_point() or not B.is_floating_point():
        return Difference(name, "same" if torch.equal(A, B) else "changed", tuple(A.shape))
    gap, size = B.double() - A.double(), A.double().norm().item()
    norm = gap.norm().item()
    relative = norm / size if size else float(norm > 0)
    largest = gap.abs().max().item() if gap.numel() else 0.0
    return Difference(name, "changed" if norm else "same", tuple(A.shape), relative, largest)


def _files(folder: str | Path) -> dict[str, Path]:
    """Which file holds which tensor."""
    path = Path(location(str(folder)))
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise BadInput(f"there is no .safetensors file in {path}; give the folder of a checkpoint or an adapter")
    found: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                names: list[str] = list(opened.keys())
        except SafetensorError as error:
            raise BadInput(f"{file} is damaged: {error}") from error
        found |= dict.fromkeys(names, file)
    return found


def _read(name: str, file: Path | None) -> Tensor:
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(name)
