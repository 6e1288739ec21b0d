"""The model of a checkpoint without its numbers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from subspace_tuning.errors import BadInput
from subspace_tuning.files.checkpoint import Checkpoint

AUTO = {
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
    "QUESTION_ANS": transformers.AutoModelForQuestionAnswering,
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": transformers.AutoModelForSeq2SeqLM,
    "FEATURE_EXTRACTION": AutoModel,
}


def class_of(config: PreTrainedConfig, task_type: str | None = None) -> Any:
    """The model with the head that a task of PEFT's names, or the config's own; without either the bare model."""
    own = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    return AUTO.get(task_type or "", own)


def split(name: str) -> tuple[str, str]:
    """The number of a layer and the kind of its module: encoder.layer.3.attention.query -> 3, attention.query."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return ("", name) if at is None else (parts[at], ".".join(parts[at + 1 :]))


def skeleton(checkpoint: Checkpoint, task_type: str | None = None) -> nn.Module:
    """The model without its numbers; of a checkpoint without a config, its matrices as linear layers."""
    data = checkpoint.config()
    if data is None or "model_type" not in data:
        return _plain(checkpoint)
    try:
        config = AutoConfig.for_model(**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"cannot make sense of the config of {checkpoint.name}: {error}") from error
    return of_config(config, task_type, checkpoint.name)


def of_config(config: PreTrainedConfig, task_type: str | None = None, name: str = "this model") -> nn.Module:
    """The model of a config without its numbers, with the head that a task or the config itself names."""
    try:
        cls = class_of(config, task_type)
        with torch.device("meta"):
            return cls(config) if issubclass(cls, PreTrainedModel) else cls.from_config(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"cannot make sense of the config of {name}: {error}") from error


def _plain(checkpoint: Checkpoint) -> nn.Module:
    root = nn.Module()
    for key in checkpoint.keys():  # noqa: SIM118
        name, _, kind = key.rpartition(".")
        size = checkpoint.shape(key)
        if kind != "weight" or len(size) != 2 or "embed" in name:
            continue
        parent = root
        *path, last = name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, nn.Linear(size[1], size[0], bias=f"{name}.bias" in checkpoint, device="meta"))
    return root
