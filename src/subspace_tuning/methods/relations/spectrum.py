"""Relations among methods that start from the singular value decomposition of W."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.linalg.svd import cayley, skew
from subspace_tuning.method.relation import At, Contains
from subspace_tuning.methods import (
    OFT,
    PSOFT,
    SVFT,
    LoRAXS,
    PiCa,
    PiSSA,
    SAMParser,
    Spectral,
    SpectralRotation,
    SVDiff,
    SVFit,
    TinyLoRA,
)
from subspace_tuning.methods.relations.low_rank import Found, R, scale


def _k(n: int, m: int) -> int:
    return min(n, m)


def _whole(n: int, m: int) -> SVFT:
    """All entries of M."""
    return SVFT(pattern="banded", d=min(n, m) - 1)


def _core(at: At) -> Tensor:
    """C of W + U_r C V_r^T, of LoRA-XS."""
    return scale(at.inner) * at.y["A"].norm(dim=0).unsqueeze(1) * at.y["M"]


def _on_core(at: At, C: Tensor) -> Found:
    """M of LoRA-XS for W + U_r C V_r^T."""
    return {"M": C / at.x["A"].norm(dim=0).unsqueeze(1) / scale(at.outer)}


def _of_svfit(at: At) -> Found:
    return _on_core(at, torch.diag(at.y["delta"]))


def _of_rotation(at: At) -> Found:
    R_U, R_V = (cayley(skew(at.y[name], R)) for name in ("u", "v"))
    return _on_core(at, R_U * at.y["S"] @ R_V.T - torch.diag(at.y["S"]))


def _of_psoft(at: At) -> Found:
    turn = (1 + at.y["a"]).unsqueeze(1) * cayley(skew(at.y["q"], R)) * (1 + at.y["b"])
    return _on_core(at, turn * at.y["S"] - torch.diag(at.y["S"]))


def _of_tiny(at: At) -> Found:
    return _on_core(at, at.y["A"].norm(dim=0).unsqueeze(1) * (at.y["v"] @ at.y["P"]).view(R, R))


def _tiny(at: At) -> Found:
    M = scale(at.inner) * at.y["M"]
    return {"v": torch.linalg.lstsq(at.x["P"].T, M.flatten().unsqueeze(1)).solution.squeeze(1)}


def _of_whole(at: At) -> Found:
    k = min(at.W.shape)
    return _on_core(at, at.y["M"].view(k, k))


def _svft(at: At) -> Found:
    C, k = _core(at), min(at.W.shape)
    return {"M": pad(C, (0, k - len(C), 0, k - len(C))).flatten()}


def _diagonal(at: At) -> Found:
    places, k = at.x["places"], min(at.W.shape)
    M = at.W.new_zeros(len(places))
    M[places // k == places % k] = at.y["delta"] if "delta" in at.y else at.y["M"]
    return {"M": M}


def _values(at: At) -> Found:
    """Changes of the singular values, those of the largest given."""
    delta = at.y["delta"] if "delta" in at.y else at.y["M"]
    return {"delta": pad(delta, (0, min(at.W.shape) - len(delta)))}


def _not_below_zero(at: At) -> Found:
    return {"delta": torch.relu(at.y["S"] + at.y["d"]) - at.y["S"]}


def _pica(at: At) -> Found:
    return {"B": _core(at) @ at.y["B"]}


def _spectral(at: At) -> Found:
    return {"A": torch.zeros_like(at.x["U"]), "B": at.y["B"] / at.x["S"].unsqueeze(1)}


def _pissa(at: At) -> Found:
    A0 = at.x["A0"]  # U_r S_r^(1/2)
    return {"A": torch.zeros_like(A0), "B": at.y["B"] / A0.norm(dim=0).unsqueeze(1)}


def _psoft(at: At) -> Found:
    """The rotation R of the rows as U^T R U within U: n <= m."""
    n = at.W.shape[0]
    Q = at.W.new_zeros(n, n)
    Q[tuple(torch.tril_indices(n, n, -1))] = at.y["q"]
    inside = at.x["U"].T @ (Q.T - Q) @ at.x["U"]  # (I + Q) (I - Q)^-1 is PSOFT's with -Q
    return {"q": inside[tuple(torch.triu_indices(n, n, 1))], "a": at.W.new_zeros(n), "b": at.W.new_zeros(n)}


RELATIONS = (
    Contains(SAMParser(), SVFit(r=R), "delta_i = 0 for the others", _values),
    Contains(lambda n, m: SVFit(r=_k(n, m)), SAMParser(), "r = k", _values),
    Contains(SVFT(), SAMParser(), "pattern = plain", _diagonal),
    Contains(SAMParser(), SVFT(), "pattern = plain", _values),
    Contains(SAMParser(), SVDiff(), "delta = relu(S + d) - S", _not_below_zero),
    Contains(LoRAXS(r=R), SVFit(r=R), "s S_r M = diag(delta)", _of_svfit),
    Contains(LoRAXS(r=R), SpectralRotation(r=R), "s S_r M = R_U S_r R_V^T - S_r", _of_rotation),
    Contains(LoRAXS(r=R), PSOFT(r=R), "s S_r M = (diag(1 + a) R diag(1 + b) - I) S_r", _of_psoft),
    Contains(LoRAXS(r=R), TinyLoRA(r=R, u=3), "on one layer, s M = v_1 P_1 + ... + v_u P_u", _of_tiny),
    Contains(TinyLoRA(r=R, u=R * R), LoRAXS(r=R), "on one layer, u = r^2 (almost surely)", _tiny),
    Contains(lambda n, m: LoRAXS(r=_k(n, m)), _whole, "r = k, d = k - 1: all of M", _of_whole),
    Contains(_whole, LoRAXS(r=R), "pattern = banded, d = k - 1: all of M", _svft),
    Contains(PiCa(r=R), LoRAXS(r=R), "B = s S_r M V_r^T", _pica),
    Contains(Spectral(r=R), PiCa(r=R), "A = 0, S_r B for B", _spectral),
    Contains(PiSSA(r=R), PiCa(r=R), "A = 0, S_r^(1/2) B for B", _pissa),
    Contains(
        lambda n, m: PSOFT(r=_k(n, m)),
        lambda n, m: OFT(b=n),
        "one block of b = n <= m, r = n: U^T R U for R",
        _psoft,
        holds=lambda n, m: n <= m,
    ),
)
