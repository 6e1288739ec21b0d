"""Relations among methods that scale rows, columns and entries of W."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_tuning.method.relation import At, Contains
from subspace_tuning.methods import (
    IA3,
    SSB,
    SSL,
    DiffPruning,
    DoRA,
    FishMask,
    HiRA,
    IA3Output,
    LieRA,
    LoRA,
    PaFi,
)
from subspace_tuning.methods.relations.low_rank import LORA, Found, R, scale

SHARE = 0.2  # of the entries, in the examples


def _rows(at: At) -> Found:
    return {"delta1": at.y["delta"], "delta2": at.W.new_zeros(at.W.shape[1])}


def _columns(at: At) -> Found:
    return {"delta1": at.W.new_zeros(at.W.shape[0]), "delta2": at.y["delta"]}


def _both(at: At) -> Found:
    return {"delta1": at.y["0_delta"], "delta2": at.y["1_delta"]}


def _in_turn(at: At) -> Found:
    return {"0_delta": at.y["delta1"], "1_delta": at.y["delta2"]}


def _same(at: At) -> Found:
    return {"delta": at.y["delta"]}


def _norms(at: At, lora: LoRA, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Of the columns of W and of W + s A B."""
    return at.W.norm(dim=0), (at.W + lora.s * A @ B).norm(dim=0)


def _dora(at: At) -> Found:
    A, B = at.y["A"], at.y["B"]
    own, made = _norms(at, LORA, A, B)
    return {"A": A, "B": B, "delta": made / own - 1}


def _dora_scaled(at: At) -> Found:
    A, B = at.y["0_A"], at.y["0_B"]
    own, made = _norms(at, LORA, A, B)
    return {"A": A, "B": B, "delta": (1 + at.y["1_delta"]) * made / own - 1}


def _scaled_lora(at: At) -> Found:
    A, B = at.y["A"], at.y["B"]
    own, made = _norms(at, LORA, A, B)
    return {"0_A": A, "0_B": B, "1_delta": (1 + at.y["delta"]) * own / made - 1}


def _dora_of_columns(at: At) -> Found:
    n, m = at.W.shape
    return {"A": at.W.new_zeros(n, R), "B": at.W.new_zeros(R, m), "delta": at.y["delta"]}


def _hira_both(at: At) -> Found:
    """d1 d2^T - 1 has the rank 2."""
    d1, d2 = 1 + at.y["delta1"], 1 + at.y["delta2"]
    return {
        "A": torch.stack([d1, torch.ones_like(d1)], 1),
        "B": torch.stack([d2, -torch.ones_like(d2)]),
    }


def _hira_rows(at: At) -> Found:
    return {"A": at.y["delta"].unsqueeze(1), "B": at.W.new_ones(1, at.W.shape[1])}


def _hira_columns(at: At) -> Found:
    return {"A": at.W.new_ones(at.W.shape[0], 1), "B": at.y["delta"].unsqueeze(0)}


def _hadamard(at: At) -> Found:
    s = [scale(f) if isinstance(f, LieRA) else 1.0 for f in (at.inner, at.outer)]
    return {"A": at.y["A"] * s[0] / s[1], "B": at.y["B"]}


def _mask(at: At) -> Found:
    return {"places": at.y["places"], "v": at.y["v"]}


def _open(at: At) -> Found:
    """V at the places of a mask, every gate as open as at the start."""
    n, m = at.W.shape
    V = at.W.new_zeros(n * m).index_put((at.y["places"],), at.y["v"]).view(n, m)
    return {"V": V, "a": torch.full_like(V, at.outer.gate)}  # type: ignore[attr-defined]


DORA = DoRA(r=R, alpha=3.0)

RELATIONS = (
    Contains(SSB(), SSL(), "delta2 = 0", _rows),
    Contains(SSB(), IA3(), "delta1 = 0", _columns),
    Contains(SSB(), SSL() | IA3(), "one after the other", _both),
    Contains(SSL() | IA3(), SSB(), "one after the other", _in_turn),
    Contains(IA3Output(), IA3(), "where the layer has no bias", _same),
    Contains(IA3(), IA3Output(), "where the layer has no bias", _same),
    Contains(HiRA(r=2), SSB(), "r = 2: A B = d1 d2^T - 1 1^T", _hira_both),
    Contains(HiRA(r=1), SSL(), "r = 1: A = delta, B = 1^T", _hira_rows),
    Contains(HiRA(r=1), IA3(), "r = 1: A = 1, B = delta^T", _hira_columns),
    Contains(HiRA(r=R), LieRA(r=R), "order = first, s A for A", _hadamard),
    Contains(LieRA(r=R), HiRA(r=R), "order = first, A / s for A", _hadamard),
    Contains(DORA, LORA, "m = c", _dora),
    Contains(DORA, IA3(), "B = 0", _dora_of_columns),
    Contains(DORA, LORA | IA3(), "m / c the scales", _dora_scaled),
    Contains(LORA | IA3(), DORA, "the scales m / c", _scaled_lora),
    Contains(FishMask(share=SHARE), PaFi(share=SHARE), "the same mask", _mask),
    Contains(DiffPruning(), FishMask(share=SHARE), "gates open, V = 0 outside the mask", _open),
)
