"""Relations among methods that rotate the inputs or the outputs of W. Blocks of their examples divide its sizes."""

from __future__ import annotations

import torch

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Params
from subspace_tuning.method.relation import At, Contains
from subspace_tuning.methods import BOFT, HRA, IA3, OFT, IA3Output, RoAd
from subspace_tuning.methods.reconstruct.hra import reflections
from subspace_tuning.methods.relations.low_rank import Found, R

B = 2  # features in a block of a rotation


def _turned(at: At) -> torch.Tensor:
    """The rotation (n, n) of the inputs that the inner method makes."""
    whole = torch.eye(len(at.W)).to(at.W)
    return at.inner.phi(Weight(whole), Params(at.y)).dense()


def _reflections(at: At) -> Found:
    return {"u": reflections(_turned(at)) - at.x["u0"]}


def _cayley(at: At) -> Found:
    """Q = (R + I)^{-1} (R - I), the numbers under its diagonal."""
    whole, turned = torch.eye(len(at.W)).to(at.W), _turned(at)
    Q = torch.linalg.solve(turned + whole, turned - whole)
    return {"q": Q[tuple(torch.tril_indices(len(Q), len(Q), -1))]}


def _first_factor(at: At) -> Found:
    n, m = at.W.shape
    q = at.W.new_zeros(at.outer.parameters(n, m)["q"].shape)
    q[: len(at.y["q"])] = at.y["q"]
    return {"q": q, "delta": at.W.new_zeros(m)}


def _no_rotation(at: At) -> Found:
    return {"q": at.W.new_zeros(at.outer.parameters(*at.W.shape)["q"].shape), "delta": at.y["delta"]}


def _one_factor(at: At) -> Found:
    return {"q": at.y["0_q"], "delta": at.y["1_delta"]}


def _in_turn(at: At) -> Found:
    return {"0_q": at.y["q"], "1_delta": at.y["delta"]}


def _no_angle(at: At) -> Found:
    return {"theta": torch.zeros_like(at.y["delta"]), "delta": at.y["delta"]}


RELATIONS = (
    Contains(
        lambda n, m: HRA(r=n),
        lambda n, m: OFT(b=n),
        "r = n even, one block of b = n <= m: R as reflections",
        _reflections,
        holds=lambda n, m: n <= m and n % 2 == 0,
    ),
    Contains(lambda n, m: OFT(b=n), HRA(r=R), "one block of b = n (almost surely)", _cayley),
    Contains(BOFT(b=B, factors=2), OFT(b=B), "R_2 = I, delta = 0, b divides n", _first_factor),
    Contains(BOFT(b=B, factors=2), IA3(), "R_i = I", _no_rotation),
    Contains(BOFT(b=B, factors=1), OFT(b=B) | IA3(), "one factor, b divides n", _one_factor),
    Contains(OFT(b=B) | IA3(), BOFT(b=B, factors=1), "one factor, b divides n", _in_turn),
    Contains(RoAd(variant=2), IA3Output(), "variant = 2, theta = 0, m even", _no_angle),
)
