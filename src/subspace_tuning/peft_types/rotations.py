"""OFT, BOFT, HRA and ROAD: the types of PEFT's that turn W."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from subspace_tuning.errors import BadInput
from subspace_tuning.method import Method
from subspace_tuning.methods import BOFT, HRA, OFT, RoAd
from subspace_tuning.peft_types.kind import Kind, Source, Unequal, as_it_is, ranks

OF_BLOCKS = "the adapter names a number of blocks, and each module has another block size; give one size"
FEWEST = 4  # terms of the sum that PEFT's OFT takes, whatever it is told


def _oft(source: Source) -> dict[str, Any]:
    config = source.config
    terms = max(config.get("num_cayley_neumann_terms", 5), FEWEST) if config.get("use_cayley_neumann", True) else 0
    if not config.get("oft_block_size"):
        raise BadInput(OF_BLOCKS)
    return {"method": OFT(b=config["oft_block_size"], terms=terms)}


def _below(name: str, t: Tensor, method: Method) -> Tensor:
    """Entries above the diagonal of each block -> those below, row by row: PEFT's are those of the inverse rotation,
    but where it is a sum."""
    b = cast(OFT, method).b
    if t.dim() != 2 or t.shape[1] != b * (b - 1) // 2:
        raise BadInput(f"blocks of {b} have {b * (b - 1) // 2} angles, got {tuple(t.shape)}")
    rows, cols = torch.triu_indices(b, b, 1)
    Q = t.new_zeros(len(t), b, b)
    Q[:, rows, cols] = t
    rows, cols = torch.tril_indices(b, b, -1)
    return _sign(method) * Q.mT[:, rows, cols].flatten()


def _above(name: str, t: Tensor, method: Method) -> Tensor:
    b = cast(OFT, method).b
    if t.numel() % (b * (b - 1) // 2):
        raise Unequal(f"PEFT's OFT has blocks of one size, and {b} does not divide each module's inputs")
    rows, cols = torch.tril_indices(b, b, -1)
    Q = t.new_zeros(t.numel() // len(rows), b, b)
    Q[:, rows, cols] = t.view(len(Q), -1)
    rows, cols = torch.triu_indices(b, b, 1)
    return _sign(method) * Q.mT[:, rows, cols]


def _sign(method: Method) -> int:
    return -1 if cast(OFT, method).terms else 1


def _as_oft(methods: Mapping[str, Any]) -> dict[str, Any]:
    forms = {(method.b, method.terms) for method in methods.values()}
    if len(forms) > 1:
        raise Unequal("PEFT's OFT has one block size and one form of rotations for all modules")
    b, terms = forms.pop()
    if 0 < terms < FEWEST:
        raise Unequal(f"PEFT's OFT takes {FEWEST} terms where it is told {terms}")
    values = {"use_cayley_neumann": terms > 0} | ({"num_cayley_neumann_terms": terms} if terms else {})
    return {"r": 0, "oft_block_size": b, **values}


OFT_KIND = Kind(
    "OFT",
    _oft,
    frozenset({"oft_block_size", "r", "use_cayley_neumann", "num_cayley_neumann_terms", "init_weights", "eps"}),
    {"oft_R": "q"},
    "oft_",
    _below,
    (OFT,),
    _as_oft,
    _above,
    layers=(nn.Linear,),
)


def _boft(source: Source) -> dict[str, Any]:
    config = source.config
    if not config.get("boft_block_size"):
        raise BadInput(OF_BLOCKS)
    return {"method": BOFT(b=config["boft_block_size"], factors=1)}


def _skew(name: str, t: Tensor, method: Method) -> Tensor:
    """PEFT's blocks (1, N, b, b) count by what they differ from their transposed; rotations are the inverse ones."""
    if name == "delta":
        return t.flatten() - 1
    if t.dim() != 4 or len(t) != 1:
        raise BadInput(
            f"an adapter of {len(t)} butterfly factors cannot be imported: PEFT joins other features in them"
        )
    rows, cols = torch.tril_indices(t.shape[-1], t.shape[-1], -1)
    return ((t.mT - t) / 2)[..., rows, cols].flatten()


def _blocks(name: str, t: Tensor, method: Method) -> Tensor:
    if name == "delta":
        return t + 1
    b = cast(BOFT, method).b
    rows, cols = torch.tril_indices(b, b, -1)
    Q = t.new_zeros(t.numel() // len(rows), b, b)
    Q[:, rows, cols] = t.view(len(Q), -1)
    return Q.mT - Q


def _as_boft(methods: Mapping[str, Any]) -> dict[str, Any]:
    forms = {(method.b, method.factors) for method in methods.values()}
    if len(forms) > 1:
        raise Unequal("PEFT's BOFT has one block size for all modules")
    b, factors = forms.pop()
    if factors > 1:
        raise Unequal("PEFT's BOFT joins other features in the factors of its butterfly")
    return {"boft_block_size": b}


BOFT_KIND = Kind(
    "BOFT",
    _boft,
    frozenset({"boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout", "init_weights"}),
    {"boft_R": "q", "boft_s": "delta"},
    "boft_",
    _skew,
    (BOFT,),
    _as_boft,
    _blocks,
    layers=(nn.Linear,),
)


def _hra(source: Source) -> dict[str, Any]:
    if source.config.get("apply_GS"):
        raise BadInput(
            "the adapter was made with apply_GS=True: its reflections, made orthogonal to each other, are not the "
            "identity at any start; it cannot be imported"
        )
    return {"method": HRA(r=source.config["r"])}


def _as_hra(methods: Mapping[str, Any]) -> dict[str, Any]:
    r, others = ranks(methods)
    if others:
        raise Unequal("PEFT's HRA has one rank for all modules")
    return {"r": r}


HRA_KIND = Kind(
    "HRA",
    _hra,
    frozenset({"r", "apply_GS", "init_weights"}),
    {"hra_u": "u"},
    "hra_",
    as_it_is,
    (HRA,),
    _as_hra,
    as_it_is,
    whole=lambda method: {"u": "whole_u"},
    layers=(nn.Linear,),
)


def _road(source: Source) -> dict[str, Any]:
    return {"method": RoAd(variant=int(source.config["variant"][-1]), group=source.config["group_size"])}


def _by_kind(name: str, t: Tensor, method: Method) -> Tensor:
    """With four numbers for a pair PEFT has those of cosines and of sines of each group in turn; ours follow on."""
    f = cast(RoAd, method)
    t = t.view(-1, 2, f.group).transpose(0, 1).flatten() if f.variant == 4 else t
    return t - 1 if name == "delta" else t


def _by_group(name: str, t: Tensor, method: Method) -> Tensor:
    f = cast(RoAd, method)
    if f.variant == 4 and t.numel() % (2 * f.group):
        raise Unequal(f"PEFT's ROAD has groups of one size, and {f.group} does not divide each module's outputs")
    t = t.view(2, -1, f.group).transpose(0, 1).flatten() if f.variant == 4 else t
    return t + 1 if name == "delta" else t


def _as_road(methods: Mapping[str, Any]) -> dict[str, Any]:
    forms = {(method.variant, method.group) for method in methods.values()}
    if len(forms) > 1:
        raise Unequal("PEFT's ROAD has one variant and one group size for all modules")
    variant, group = forms.pop()
    return {"variant": f"road_{variant}", "group_size": group}


ROAD = Kind(
    "ROAD",
    _road,
    frozenset({"variant", "group_size", "init_weights"}),
    {"road_theta": "theta", "road_alpha": "delta"},
    "road_",
    _by_kind,
    (RoAd,),
    _as_road,
    _by_group,
    layers=(nn.Linear,),
)
ROTATIONS = (OFT_KIND, BOFT_KIND, HRA_KIND, ROAD)
