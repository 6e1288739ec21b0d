"""Random projections that follow from a seed and a shape: made anew wherever they are needed, stored nowhere.

Layers of one shape share one tensor for as long as any of them lives.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakValueDictionary

import torch
from torch import Tensor

_kept: WeakValueDictionary[tuple[object, ...], Tensor] = WeakValueDictionary()


def projection(seed: int, key: int, shape: tuple[int, ...], fill: Callable[..., Tensor], like: Tensor) -> Tensor:
    """A tensor filled by ``fill(tensor, generator)``, in the dtype and on the device of ``like``.

    seed and key (0 or 1, which of a method's two) make the numbers; they are the same on every device.
    """
    if like.is_meta:
        return torch.empty(shape, dtype=like.dtype, device="meta")
    name = (seed, key, shape, fill, like.dtype, like.device)
    found = _kept.get(name)
    if found is None:
        generator = torch.Generator().manual_seed(2 * seed + key)
        found = fill(torch.empty(shape), generator).to(like)
        _kept[name] = found
    return found


def kaiming_uniform(M: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform with variance 2 / n for M in R^{n x m}, n inputs."""
    bound = (6 / M.shape[0]) ** 0.5
    return M.uniform_(-bound, bound, generator=generator)


def unit_uniform(M: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform with variance 1."""
    return M.uniform_(-(3**0.5), 3**0.5, generator=generator)
