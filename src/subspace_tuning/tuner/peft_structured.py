"""LOHA, LOKR, HIRA and OFT: the types of PEFT's whose change of W is a structured product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from subspace_tuning.errors import BadInput
from subspace_tuning.method import Method
from subspace_tuning.methods import OFT, HiRA, LoHa, LoKr
from subspace_tuning.tuner.peft_kind import Kind, Source, Unequal, back, ranks, scales, turned

PATTERNS = ("rank_pattern", "alpha_pattern")


def _patterns(source: Source) -> dict[str, Any]:
    return {key: dict(source.config.get(key) or {}) for key in PATTERNS}


def _scaled(methods: Mapping[str, Any]) -> dict[str, Any]:
    r, rank_pattern = ranks(methods)
    alpha, alpha_pattern = scales(methods, lambda method: method.alpha)
    return {"r": r, "alpha": alpha, "rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern}


def _loha(source: Source) -> dict[str, Any]:
    return {"method": LoHa(r=source.config["r"], alpha=source.config["alpha"]), **_patterns(source)}


LOHA = Kind(
    "LOHA",
    _loha,
    frozenset({"r", "alpha", *PATTERNS, "init_weights"}),
    {"hada_w1_b": "A1", "hada_w1_a": "B1", "hada_w2_b": "A2", "hada_w2_a": "B2"},
    "hada_",
    turned,
    (LoHa,),
    _scaled,
    back,
)


def _lokr(source: Source) -> dict[str, Any]:
    return {"method": LoKr(r=source.config["r"], alpha=source.config["alpha"]), **_patterns(source)}


def _as_lokr(methods: Mapping[str, Any]) -> dict[str, Any]:
    if any(method.factor is not None for method in methods.values()):
        raise Unequal("PEFT's LOKR and LoKr's factor do not part every size alike")
    return _scaled(methods)


LOKR = Kind(
    "LOKR",
    _lokr,
    frozenset({"r", "alpha", *PATTERNS, "init_weights"}),
    {"lokr_w1": "C", "lokr_w2": "D", "lokr_w2_b": "D1", "lokr_w2_a": "D2"},
    "lokr_",
    turned,
    (LoKr,),
    _as_lokr,
    back,
    layers=(nn.Linear,),
)


def _hira(source: Source) -> dict[str, Any]:
    """PEFT 0.21 gives each module the rank r, whatever its rank_pattern says."""
    return {"method": HiRA(r=source.config["r"])}


def _as_hira(methods: Mapping[str, Any]) -> dict[str, Any]:
    r, others = ranks(methods)
    if others:
        raise Unequal("PEFT's HIRA has one rank for all modules")
    return {"r": r}


HIRA = Kind(
    "HIRA",
    _hira,
    frozenset({"r", "rank_pattern", "init_weights", "hira_dropout"}),
    {"hira_A": "A", "hira_B": "B", "hira_embedding_A": "A", "hira_embedding_B": "B"},
    "hira_",
    turned,
    (HiRA,),
    _as_hira,
    back,
)


def _oft(source: Source) -> dict[str, Any]:
    config = source.config
    if config.get("use_cayley_neumann", True):
        raise BadInput(
            "the adapter was made with use_cayley_neumann=True: PEFT then takes five terms of a series for the Cayley "
            "form, and what it computes is no rotation; it cannot be imported"
        )
    if not config.get("oft_block_size"):
        raise BadInput("the adapter names a number of blocks, r, and each module has another block size; give one size")
    return {"method": OFT(b=config["oft_block_size"])}


def _below(name: str, t: Tensor, method: Method) -> Tensor:
    """Entries above the diagonal of each block -> those below, row by row: PEFT's are those of the inverse rotation."""
    b = cast(OFT, method).b
    if t.dim() != 2 or t.shape[1] != b * (b - 1) // 2:
        raise BadInput(f"blocks of {b} have {b * (b - 1) // 2} angles, got {tuple(t.shape)}")
    rows, cols = torch.triu_indices(b, b, 1)
    Q = t.new_zeros(len(t), b, b)
    Q[:, rows, cols] = t
    rows, cols = torch.tril_indices(b, b, -1)
    return Q.mT[:, rows, cols].flatten()


def _above(name: str, t: Tensor, method: Method) -> Tensor:
    b = cast(OFT, method).b
    if t.numel() % (b * (b - 1) // 2):
        raise Unequal(f"PEFT's OFT has blocks of one size, and {b} does not divide each module's inputs")
    rows, cols = torch.tril_indices(b, b, -1)
    Q = t.new_zeros(t.numel() // len(rows), b, b)
    Q[:, rows, cols] = t.view(len(Q), -1)
    rows, cols = torch.triu_indices(b, b, 1)
    return Q.mT[:, rows, cols]


def _as_oft(methods: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {method.b for method in methods.values()}
    if len(sizes) > 1:
        raise Unequal("PEFT's OFT has one block size for all modules")
    return {"r": 0, "oft_block_size": sizes.pop(), "use_cayley_neumann": False}


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
STRUCTURED = (LOHA, LOKR, HIRA, OFT_KIND)
