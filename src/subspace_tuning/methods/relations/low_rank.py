"""Relations among methods that add a low-rank product to W. Their examples have the rank R."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Params
from subspace_tuning.method.mpc import constrain
from subspace_tuning.method.relation import At, Contains
from subspace_tuning.methods import (
    OSF,
    AdaLoRA,
    FlexLoRA,
    FLoRA,
    KaSA,
    LoHa,
    LoKr,
    LoRA,
    LoRADash,
    MiLoRA,
    MoSLoRA,
    Parallel,
    PiCa,
    PiSSA,
    Spectral,
    StelLA,
    TiedLoRA,
    TriLoRA,
    UniLoRA,
    VBLoRA,
    VeRA,
)

Found = dict[str, Tensor]
R = 2
LORA = LoRA(r=R, alpha=3.0)


def scale(f: Any) -> float:
    """s of s A B."""
    return f.s if hasattr(f, "s") else f.alpha / f.r


def factors(at: At) -> Found:
    """A and B of s A B = phi(W) - W, from the low-rank factors that the inner method's expression has."""
    made = at.inner.phi(Weight(at.W), Params(at.y)).delta_factors()
    assert made is not None
    A, B = made
    short = at.outer.r - A.shape[1]  # type: ignore[attr-defined]
    return {"A": pad(A / scale(at.outer), (0, short)), "B": pad(B, (0, 0, 0, short))}


def _rescaled(at: At) -> Tensor:
    """The inner method's A, so that the outer one's s A is the inner one's."""
    return at.y["A"] * (scale(at.inner) / scale(at.outer))


def _trilora(at: At) -> Found:
    return {"A": _rescaled(at), "B": at.y["B"], "delta": at.W.new_zeros(R)}


def _flora(at: At) -> Found:
    return {"A": _rescaled(at), "B": at.y["B"], "M": torch.diag(at.y["delta"])}


def _moslora(at: At) -> Found:
    return {"A": _rescaled(at), "B": at.y["B"], "M": torch.eye(R).to(at.W)}


def _stella(at: At) -> Found:
    U, S, Vt = torch.linalg.svd(_rescaled(at) @ at.y["B"], full_matrices=False)
    return {"U": U[:, :R], "S": torch.diag(S[:R]), "V": Vt[:R].T}


def _adalora(at: At) -> Found:
    return {"A": _rescaled(at), "B": at.y["B"], "d": at.W.new_ones(R)}


def _flexlora(at: At) -> Found:
    return {**_adalora(at), "a": torch.ones(R, dtype=torch.bool)}


def _dash(at: At) -> Found:
    n, m = at.W.shape
    U, Vt = torch.eye(n, R).to(at.W), torch.eye(R, m).to(at.W)
    return {"A": _rescaled(at), "B": at.y["B"], "d": at.W.new_zeros(R), "U": U, "Vt": Vt}


def _tied(at: At) -> Found:
    return {"A": _rescaled(at), "B": at.y["B"], "u": at.W.new_zeros(R), "v": at.W.new_zeros(at.W.shape[1])}


def _tied_to_frozen(at: At) -> Found:
    u = at.inner.d_initial + at.y["delta"] - 1  # type: ignore[attr-defined]
    return {"A": at.y["A"], "B": at.y["B"], "u": u, "v": at.y["b"] / scale(at.outer) - 1}


def _lokr(at: At) -> Found:
    return {"C": at.W.new_ones(1, 1), "D1": _rescaled(at), "D2": at.y["B"]}


def _loha(at: At) -> Found:
    first, row = torch.zeros_like(at.y["A"]), torch.zeros_like(at.y["B"])
    first[:, 0], row[0] = 1, 1
    return {"A1": first, "B1": row, "A2": _rescaled(at), "B2": at.y["B"]}


def _same(at: At) -> Found:
    return {"A": at.y["A"], "B": at.y["B"]}


def _lora(r: int) -> LoRA:
    return LoRA(r=r, alpha=3.0)


def _twice_the_tail(n: int, m: int) -> LoRA:
    return _lora(2 * OSF().parameters(n, m)["s"].shape[0])


RELATIONS = (
    Contains(TriLoRA(r=R), LORA, "delta = 0", _trilora),
    Contains(LORA, TriLoRA(r=R), "A D for A", factors),
    Contains(FLoRA(r=R), TriLoRA(r=R), "M = diag(delta)", _flora),
    Contains(LORA, FLoRA(r=R), "A (I + M) for A", factors),
    Contains(MoSLoRA(r=R), LORA, "M = I", _moslora),
    Contains(LORA, MoSLoRA(r=R), "A M for A", factors),
    Contains(StelLA(r=R), LORA, "U S V^T the singular value decomposition of A B", _stella),
    Contains(LORA, StelLA(r=R), "U S for A, V^T for B", factors),
    Contains(AdaLoRA(r=1, init_r=R), LORA, "init_r = r, d = 1", _adalora),
    Contains(LORA, AdaLoRA(r=1, init_r=R), "r = init_r, A diag(d) for A", factors),
    Contains(FlexLoRA(r=R, max_r=R), LORA, "all directions in use, d = 1", _flexlora),
    Contains(LORA, FlexLoRA(r=1, max_r=R), "r = max_r, A diag(a o d) for A", factors),
    Contains(TiedLoRA(r=R), LORA, "on one layer, u = 0 and v = 0", _tied),
    Contains(LORA, TiedLoRA(r=R), "the scales taken into A and B of each layer", factors),
    Contains(TiedLoRA(r=R), VeRA(r=R), "A and B the frozen ones", _tied_to_frozen),
    Contains(LORA, VeRA(r=R), "the scales taken into A and B", factors),
    Contains(LoKr(r=R, factor=1), LORA, "factor = 1, C = 1", _lokr),
    Contains(LORA, LoKr(r=R, factor=1), "factor = 1, C taken into A", factors),
    Contains(LoHa(r=R), LORA, "A1 B1 all ones", _loha),
    Contains(_lora(R * R), LoHa(r=R), "of rank r^2", factors),
    Contains(LoRADash(r=R, directions=R), LORA, "d = 0", _dash),
    Contains(_lora(2 * R), LoRADash(r=R, directions=R), "of rank r + directions", factors),
    Contains(LORA, PiCa(r=R), "A = U_r / s", factors),
    Contains(LoRA(r=R, alpha=float(R), init="pissa"), PiSSA(r=R), 'init = "pissa", alpha = r', _same),
    Contains(PiSSA(r=R), LoRA(r=R, alpha=float(R), init="pissa"), 'init = "pissa", alpha = r', _same),
    Contains(LoRA(r=R, alpha=float(R), init="milora"), MiLoRA(r=R), 'init = "milora", alpha = r', _same),
    Contains(MiLoRA(r=R), LoRA(r=R, alpha=float(R), init="milora"), 'init = "milora", alpha = r', _same),
    Contains(_lora(2 * R), Spectral(r=R), "of rank 2 r", factors),
    Contains(_lora(2 * R), KaSA(r=R), "of rank 2 r", factors),
    Contains(_lora(2 * R), UniLoRA(r=R, d=9), "of rank 2 r", factors),
    Contains(_lora(2 * R), VBLoRA(r=R, h=4, b=1), "of rank 2 r", factors),
    Contains(_twice_the_tail, OSF(), "of rank 2 (k - h)", factors),
    Contains(Parallel(r=R), constrain(LoRA(r=R, alpha=float(R)), "n"), "h = relu, mpc = n", _same),
    Contains(constrain(LoRA(r=R, alpha=float(R)), "n"), Parallel(r=R), "h = relu, mpc = n, alpha = s r", _same),
)
