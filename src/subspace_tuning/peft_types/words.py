"""Keywords that people know from PEFT's LoraConfig, in our words; where we have none, what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

SAME = {
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "use_rslora": "rank_stabilized",
    "target_r": "r",
    "deltaT": "delta_t",
    "orth_reg_weight": "orthogonality",
}
STARTS = {"pissa": "pissa", "olora": "orthogonal", "eva": "eva", "lora_ga": "lora_ga", "corda": "corda"}
INSTEAD = {
    "bias": "biases are trained by a method of their own: method='bitfit', or 'lora|bitfit' for both at once",
    "lora_bias": "a bias between A and B is none of the equation; method='lora|bitfit' trains that of the layer",
    "trainable_token_indices": "train the embedding whole by modules_to_save=['embed_tokens'], or name it in "
    "target_modules",
    "target_parameters": "name the parameters of experts there, or in target_modules",
    "layer_replication": "replicate the layers of the model before the method is put on it",
    "use_qalora": "method='lora' trains on a quantised weight as it is",
    "alora_invocation_tokens": "a method is at work on every token, or on none: see disable_adapter",
    "use_bdlora": "method='lokr' and method='oft' are made of blocks",
    "kasa_config": "method='kasa' has beta and gamma as fields",
    "loftq_config": "quantise the model first, then subspace_tuning.start_near(model, original)",
    "eva_config": "init='eva', then subspace_tuning.calibrate(model, batches)",
    "corda_config": "init='corda', then subspace_tuning.calibrate(model, batches)",
    "lora_ga_config": "init='lora_ga', then subspace_tuning.calibrate(model, batches)",
    "feedforward_modules": "method_pattern gives single modules another method",
}
NOTHING: tuple[Any, ...] = (None, False, "none", {}, [])  # values that ask for nothing


def ours(method: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A method's name and fields, where either was said in PEFT's words. Raises ValueError for what has none."""
    said = dict(values)
    fields: dict[str, Any] = {}
    start = said.pop("init_lora_weights", True)
    if not isinstance(start, bool):
        name = str(start).split("_niter_")[0]
        if name not in STARTS:
            raise ValueError(f"init_lora_weights={start!r} is PEFT's; here init is one of {', '.join(STARTS.values())}")
        fields["init"] = STARTS[name]
    if said.pop("use_dora", False):
        method = {"lora": "dora"}.get(method, method)
        if method != "dora":
            raise ValueError(f"use_dora is for LoRA: say method='dora' instead of {method!r}")
    for key, value in said.items():
        if key in SAME:
            fields[SAME[key]] = value
        elif key == "fan_in_fan_out" or (key in INSTEAD and value in NOTHING):
            continue
        elif key in INSTEAD:
            raise ValueError(f"{key}={value!r} is PEFT's and has no counterpart here: {INSTEAD[key]}")
        else:
            fields[key] = value
    return method, fields


def with_parameters(modules: Any, parameters: Iterable[str]) -> Any:
    """``target_modules`` that name these parameters (of experts) too. Raises ValueError beside "all-linear"."""
    if modules == "all-linear":
        raise ValueError(
            "target_modules='all-linear' takes all fused experts: leave target_parameters out, or name both"
        )
    if isinstance(modules, str):
        names = "|".join(map(re.escape, parameters))
        return rf"(?:{modules})|(?:.*\.)?(?:{names})"
    return {*(modules or ()), *parameters}
