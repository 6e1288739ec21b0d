"""How many parameters a method would train on a model, counted without loading a weight."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.assets import location
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.put_on import put_on


class Counts(NamedTuple):
    """Numbers of parameters; the head is counted apart, since every method trains it."""

    trainable: int
    trainable_with_head: int
    total: int  # of the pretrained part, without what the method adds

    @property
    def permille(self) -> float:
        return 1000 * self.trainable / self.total


def budget(model: str, config: SubspaceConfig | None) -> Counts:
    """The counts for a model (hub name, folder or config.json); without a config those of full fine-tuning.

    The model is the encoder alone: the classification head is trained by every method and counted by none.
    """
    encoder = skeleton(model)
    if config is None:
        return count(encoder)
    return count(put_on(encoder, config))


def skeleton(model: str) -> PreTrainedModel:
    """The model without its head and without weights: shapes on the meta device."""
    config = config_of(model)
    logging.set_verbosity_error()
    with torch.device("meta"), as_bad_input((ValueError, KeyError, TypeError, AttributeError)):
        return cast(PreTrainedModel, AutoModel.from_config(config))


def config_of(model: str) -> PreTrainedConfig:
    """The config of a model (hub name, folder or config.json). Raises BadInput where there is none."""
    path = Path(location(model))
    if path.suffix == ".json":
        return _read_config(path)
    try:
        named = str(path) if path.exists() else model
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(named, trust_remote_code=False))
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"{model!r} is neither a folder with a model, nor its config.json, nor a model on the hub within reach"
        ) from error


def _read_config(path: Path) -> PreTrainedConfig:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the model's config {path}: {error}") from error
    kind = data.pop("model_type", None) if isinstance(data, dict) else None
    if kind is None:
        raise BadInput(f"{path} is not the config.json of a transformers model: it names no model_type")
    with as_bad_input((ValueError, KeyError, TypeError)):
        return AutoConfig.for_model(kind, **data)


def count(model: nn.Module, head: Sequence[str] = ()) -> Counts:
    """Parameters of a model with a method on it; ``head`` names the modules that every method trains."""
    in_head = [is_in(name, head) for name, _ in model.named_parameters()]
    both = list(zip(in_head, model.named_parameters(), strict=True))
    trained = sum(p.numel() for _, (_, p) in both if p.requires_grad)
    trainable = sum(p.numel() for head_too, (_, p) in both if p.requires_grad and not head_too)
    added = ("subspace_params.", "subspace_shared.", "modules_to_save.", "prompt_encoder.")
    total = sum(p.numel() for head_too, (name, p) in both if not head_too and not any(a in name for a in added))
    return Counts(trainable, trained, total)


def is_in(name: str, modules: Sequence[str]) -> bool:
    """Whether a parameter belongs to one of these modules, also beneath the prefixes that PEFT adds."""
    name = name.removeprefix("base_model.model." if name.startswith("base_model.model.") else "base_model.")
    return any(name.startswith(module + ".") for module in modules)
