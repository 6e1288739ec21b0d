"""The configs of soft prompts, which are PEFT's own, as a file holds them: no more than such a method trains by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from peft import PeftConfig, TaskType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from subspace_tuning.errors import BadInput, as_bad_input, shown
from subspace_tuning.method import declared

SOFT = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
NOT_LOOKED_AT = {"requires", "auto_mapping", "runtime_config"}
COUNTS = {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"}
COUNTS |= {"encoder_hidden_size", "encoder_num_layers"}
MOST = 1 << 17  # of what a soft prompt counts
KNOWN = {*COUNTS, "peft_type", "task_type", "base_model_name_or_path", "inference_mode", "peft_version"}
KNOWN |= {"revision", "modules_to_save", "encoder_dropout", "encoder_reparameterization_type"}


def soft_config(kind: str, data: Mapping[str, Any], where: str) -> PeftConfig:
    """PEFT's config of a soft prompt, with no more than what such a method trains by."""
    cls: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind]  # type: ignore[index]
    plain = {f.name: f.default for f in fields(cls)}
    for key, value in data.items():
        if key in NOT_LOOKED_AT or key in KNOWN or value == plain.get(key, value is None):
            continue
        raise BadInput(f"{where} holds {shown(key)}={shown(value)}, which no soft prompt here has")
    if data.get("task_type") is None:
        raise BadInput(
            f"{where} has no task_type, which a soft prompt needs: one of {', '.join(t.value for t in TaskType)}"
        )
    with as_bad_input((ValueError, TypeError, OverflowError)):
        declared.check(cls, data, where)
        if any(isinstance(data.get(key), int) and not 0 < data[key] <= MOST for key in COUNTS):
            raise ValueError(f"{where}: {', '.join(sorted(COUNTS))} are whole numbers from 1 to {MOST}")
        config: PeftConfig = cls(**{key: value for key, value in data.items() if key in plain})
        return config
