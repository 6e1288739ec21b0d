"""How many parameters a method would train on a model, counted without loading a weight."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.pretrained import Counts, Pretrained, count, location, put_on
from subspace_tuning.tuner.config import SubspaceConfig


def budget(model: str, config: SubspaceConfig | None) -> Counts:
    """The counts for a model (hub name, folder or config.json); without a config those of full fine-tuning.

    The model is the encoder alone: the classification head is trained by every method and counted by none.
    """
    encoder = Pretrained(skeleton(model), [])
    if config is None:
        return count(encoder.model, encoder)
    return count(put_on(encoder.model, config), encoder)


def skeleton(model: str) -> PreTrainedModel:
    """The model without its head and without weights: shapes on the meta device."""
    path = Path(location(model))
    if path.suffix == ".json":
        config = _read_config(path)
    else:
        try:
            config = AutoConfig.from_pretrained(str(path) if path.exists() else model)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(
                f"{model!r} is neither a folder with a model, nor its config.json, nor a model on the hub within reach"
            ) from error
    logging.set_verbosity_error()
    with torch.device("meta"), as_bad_input((ValueError, KeyError, TypeError, AttributeError)):
        return AutoModel.from_config(config)


def _read_config(path: Path):
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the model's config {path}: {error}") from error
    kind = data.pop("model_type", None) if isinstance(data, dict) else None
    if kind is None:
        raise BadInput(f"{path} is not the config.json of a transformers model: it names no model_type")
    with as_bad_input((ValueError, KeyError, TypeError)):
        return AutoConfig.for_model(kind, **data)
