"""LOHA, LOKR, HIRA and DELORA: the types of PEFT's whose change of W is a structured product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from subspace_tuning.method import Method
from subspace_tuning.methods import DeLoRA, HiRA, LoHa, LoKr
from subspace_tuning.peft_types.kind import Kind, Source, Unequal, back, ranks, scales, turned

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


def _delora(source: Source) -> dict[str, Any]:
    config = source.config
    method = DeLoRA(r=config["r"], bound=config["delora_lambda"], dropout=config.get("module_dropout", 0.0))
    return {"method": method, "rank_pattern": dict(config.get("rank_pattern") or {})}


def _from_bound(name: str, t: Tensor, method: Method) -> Tensor:
    return t - cast(DeLoRA, method).bound if name == "delta" else turned(name, t, method)


def _as_delora(methods: Mapping[str, Any]) -> dict[str, Any]:
    r, rank_pattern = ranks(methods)
    dropout = next(iter(methods.values())).dropout
    return {"r": r, "rank_pattern": rank_pattern, "module_dropout": dropout}


def _whole_bound(name: str, t: Tensor, method: Method) -> Tensor:
    return t + cast(DeLoRA, method).bound if name == "delta" else back(name, t, method)


DELORA = Kind(
    "DELORA",
    _delora,
    frozenset({"r", "delora_lambda", "module_dropout", "rank_pattern", "lambda_pattern", "init_weights"}),
    {"delora_A": "A", "delora_B": "B", "delora_lambda": "delta"},
    "delora_",
    _from_bound,
    (DeLoRA,),
    _as_delora,
    _whole_bound,
    frozenset({"delora_w_norm"}),
    layers=(nn.Linear,),
)
STRUCTURED = (LOHA, LOKR, HIRA, DELORA)
