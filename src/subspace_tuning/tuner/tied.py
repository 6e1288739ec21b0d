"""Weights that several modules share, and what merging into one of them leaves of that."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn


def shares(model: nn.Module, weight: nn.Parameter) -> bool:
    """Whether several modules hold this very parameter."""
    held = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    return held[id(weight)] > 1


def can_untie(model: Any) -> bool:
    """Whether a checkpoint of the model can say that nothing is tied: T5's config, say, cannot."""
    config = getattr(model, "config", None)
    if not getattr(config, "tie_word_embeddings", False):
        return True
    return not type(config).from_dict({**config.to_dict(), "tie_word_embeddings": False}).tie_word_embeddings


def untie(model: Any) -> None:
    """Say so in the config where weights are tied no longer, so that loading does not tie them again."""
    tied = (getattr(model, "all_tied_weights_keys", None) or {}).items()
    if any(model.get_parameter(one) is not model.get_parameter(other) for one, other in tied):
        for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
            config.tie_word_embeddings = False
        model.all_tied_weights_keys = {}
