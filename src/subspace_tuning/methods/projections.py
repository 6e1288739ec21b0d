"""Random projections and places that follow from a seed and a shape: made anew wherever needed, stored nowhere.

Layers of one shape share one tensor for as long as any of them lives; ``own_seed`` gives each layer numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from weakref import WeakValueDictionary
from zlib import crc32

import torch
from torch import Tensor

from subspace_tuning.algebra import Weight

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


def drawn_places(seed: int, n: int, m: int, k: int, like: Tensor, ascending: bool = False) -> Tensor:
    """k different places i m + j of a matrix (n, m), those that PEFT draws in its transpose: (k,), in its order."""
    drawn = _drawn(n, m, ascending)
    return projection(seed // 2, seed % 2, (k,), drawn, torch.empty(0, dtype=torch.int64, device=like.device))


@cache
def _drawn(n: int, m: int, ascending: bool) -> Callable[..., Tensor]:
    def fill(places: Tensor, generator: torch.Generator) -> Tensor:
        transposed = torch.randperm(n * m, generator=generator)[: len(places)]
        places = transposed % n * m + transposed // n
        return places.sort().values if ascending else places

    return fill


def own_seed(seed: int, W: Weight) -> int:
    """A seed that one layer has alone: it follows from its name in the model, whatever other layers are tuned."""
    return crc32(f"{seed} {W.place}".encode())


def projection_pair(seed: int, n: int, m: int, r: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """A (n, r), then B (r, m), from one stream as PEFT draws them: transposed, uniform with variance 2 / inputs."""
    drawn = projection(seed // 2, seed % 2, (r * n + m * r,), _one_after_the_other(r * n, n, r), like)
    return drawn[: r * n].view(r, n).T, drawn[r * n :].view(m, r).T


@cache
def _one_after_the_other(first: int, n: int, r: int) -> Callable[..., Tensor]:
    def fill(both: Tensor, generator: torch.Generator) -> Tensor:
        for part, inputs in ((both[:first], n), (both[first:], r)):
            bound = (6 / inputs) ** 0.5
            part.uniform_(-bound, bound, generator=generator)
        return both

    return fill


def kaiming_uniform(M: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform with variance 2 / n for M in R^{n x m}, n inputs."""
    bound = (6 / M.shape[0]) ** 0.5
    return M.uniform_(-bound, bound, generator=generator)


def unit_normal(M: Tensor, generator: torch.Generator) -> Tensor:
    """Normal with variance 1."""
    return M.normal_(generator=generator)


def unit_uniform(M: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform with variance 1."""
    return M.uniform_(-(3**0.5), 3**0.5, generator=generator)
