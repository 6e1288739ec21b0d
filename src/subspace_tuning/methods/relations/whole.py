"""Relations among methods that add to W what is structured or sparse, up to those that reach any change."""

from __future__ import annotations

import torch

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Params
from subspace_tuning.method.relation import At, Contains
from subspace_tuning.methods import C3A, DiffPruning, FishMask, FourierFT, LoRA, MiSS, SHiRA, SuperTuning, WaveFT
from subspace_tuning.methods.relations.low_rank import LORA, Found, R, scale

FEW = 9  # coefficients, in the examples
ROWS = 1  # of a LoRA with as many numbers as SHiRA's mask has


def _changed(at: At) -> torch.Tensor:
    return at.inner.phi(Weight(at.W), Params(at.y)).dense()


def _any(at: At) -> Found:
    """V the change, every gate as open as at the start."""
    V = _changed(at) - at.W
    return {"V": V, "a": torch.full_like(V, at.outer.gate)}  # type: ignore[attr-defined]


def _nearest(at: At) -> Found:
    """What is reached is its own nearest."""
    return at.outer.project(Weight(at.W), Weight(_changed(at)))


def _shards(at: At) -> Found:
    n, r = len(at.W), len(at.y["D"])
    A = torch.eye(r).to(at.W).repeat(-(-n // r), 1)[:n]
    return {"A": A / scale(at.outer), "B": at.y["D"]}


def _mask(at: At) -> Found:
    return {"places": at.y["places"], "v": at.y["v"]}


def _share(n: int, m: int) -> float:
    return ROWS * (n + m) / (n * m)


def _supertuning(n: int, m: int) -> SuperTuning:
    return SuperTuning(share=_share(n, m))


def _fishmask(n: int, m: int) -> FishMask:
    return FishMask(share=_share(n, m))


def _shira(mask: str) -> SHiRA:
    return SHiRA(r=ROWS, mask=mask)


RELATIONS = (
    Contains(LoRA(r=R, alpha=3.0), MiSS(r=R), "s A = [I; ...; I], B = D", _shards),
    Contains(lambda n, m: MiSS(r=n), LORA, "r = n <= m, D = s A B", _nearest, holds=lambda n, m: n <= m),
    Contains(DiffPruning(), C3A(b=2), "gates open: any change", _any),
    Contains(C3A(b=1), DiffPruning(), "d = 1: any change", _nearest),
    Contains(DiffPruning(), FourierFT(frequencies=FEW), "gates open: any change", _any),
    Contains(DiffPruning(), WaveFT(frequencies=FEW), "gates open: any change", _any),
    Contains(
        lambda n, m: WaveFT(frequencies=n * m), DiffPruning(), "frequencies = n m, both even: any change", _nearest
    ),
    Contains(_supertuning, _shira("magnitude"), "mask = magnitude, share n m = r (n + m)", _mask),
    Contains(_shira("magnitude"), _supertuning, "mask = magnitude, share n m = r (n + m)", _mask),
    Contains(_fishmask, _supertuning, "the same mask", _mask),
    Contains(_fishmask, _shira("random"), "the same mask", _mask),
)
