"""Relations among low-rank products that are measured, cut into blocks, or stand beside something else."""

from __future__ import annotations

import torch

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Params
from subspace_tuning.method.relation import At, Contains
from subspace_tuning.methods import MAP, SSL, DeLoRA, GraLoRA, LoRA, SpecLoRA, SVFit
from subspace_tuning.methods.relations.low_rank import LORA, Found, R, factors, scale

SPECLORA = SpecLoRA(r=R, alpha=3.0, directions=R)


def _product(at: At) -> torch.Tensor:
    return scale(at.inner) * at.y["A"] @ at.y["B"]


def _whole_length(at: At) -> Found:
    length = (_product(at).norm() - at.outer.length).unsqueeze(0)  # type: ignore[attr-defined]
    return {"A": at.y["A"], "B": at.y["B"], "alpha": at.W.new_zeros(1), "beta": length}


def _scaled_rows(at: At) -> Found:
    f = at.inner
    D = at.y["A"] @ at.y["B"]
    c = (f.length + at.y["beta"]) / D.norm() / LORA.s  # type: ignore[attr-defined]
    return {"0_delta": at.y["alpha"].expand(len(at.W)), "1_A": c * at.y["A"], "1_B": at.y["B"]}


def _unscaled(at: At) -> Found:
    return {"A": at.y["A"], "B": at.y["B"], "delta": at.W.new_zeros(R)}


def _directions(at: At) -> Found:
    n, m = at.W.shape
    return {"A": at.W.new_zeros(n, R), "B": at.W.new_zeros(R, m), "delta": at.y["delta"] / at.x["S"]}


def _both(at: At) -> Found:
    return {"A": at.y["1_A"], "B": at.y["1_B"], "delta": at.y["0_delta"] / at.x["S"]}


def _one_norm(at: At) -> Found:
    return at.outer.project(Weight(at.W), Weight(at.W + _product(at)))


def _side_by_side(at: At) -> Found:
    """All blocks as one product."""
    D = at.inner.phi(Weight(at.W), Params(at.y)).dense() - at.W
    U, S, Vt = torch.linalg.svd(D, full_matrices=False)
    r = at.outer.r  # type: ignore[attr-defined]
    return {"A": U[:, :r] * S[:r] / scale(at.outer), "B": Vt[:r]}


def _one_block(at: At) -> Found:
    rescaled = at.y["A"] * (scale(at.inner) / scale(at.outer))
    return {"A": rescaled.unsqueeze(0), "B": at.y["B"].unsqueeze(0)}


RELATIONS = (
    Contains(MAP(r=R), LORA, "alpha = 0, length + beta = ||s A B||_F", _whole_length),
    Contains(SSL() | LORA, MAP(r=R), "the same number 1 + alpha for every row", _scaled_rows),
    Contains(SPECLORA, LORA, "delta = 0", _unscaled),
    Contains(SPECLORA, SVFit(r=R), "A B = 0, S_k delta for delta", _directions),
    Contains(SPECLORA, SVFit(r=R) | LORA, "one after the other, S_k delta for delta", _both),
    Contains(LoRA(r=2 * R, alpha=3.0), SPECLORA, "of rank r + directions", factors),
    Contains(DeLoRA(r=R), LORA, "where no row of W is zero: terms of N^-1 A B turned to one norm", _one_norm),
    Contains(LORA, DeLoRA(r=R), "N A diag(c) for A", factors),
    Contains(GraLoRA(r=R, blocks=1), LORA, "one block", _one_block),
    Contains(LoRA(r=2 * R, alpha=3.0), GraLoRA(r=R, blocks=2), "of rank K r", _side_by_side),
    Contains(LoRA(r=2 * R, alpha=3.0), LoRA(r=R, init="loram"), 'of rank 2 r, one with init = "loram"', factors),
)
