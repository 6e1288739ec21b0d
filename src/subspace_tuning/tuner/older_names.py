"""Checkpoints of older transformers call some modules otherwise; these are their names in a model of today."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key


def renaming(model: nn.Module) -> Callable[[str], str]:
    """Name of a tensor in a checkpoint -> its name in the model; what the model knows already stays as it is."""
    if not isinstance(model, PreTrainedModel):
        return lambda key: key
    renamings: Any = [t for t in get_model_conversion_mapping(model) if isinstance(t, WeightRenaming)]
    own: Any = model.state_dict()

    def renamed(key: str) -> str:
        new, _ = rename_source_key(key, renamings, [], model.base_model_prefix, own)
        return key if key in own and new not in own else new

    return renamed
