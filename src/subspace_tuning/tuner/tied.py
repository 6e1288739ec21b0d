"""Weights that several modules share, and what merging into one of them leaves of that."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from subspace_tuning.tuner.layer import SubspaceLayer


def check_untied(model: nn.Module) -> None:
    """Raise ValueError where a tuned layer shares its weight and no checkpoint of the model could say it ceased to."""
    if _can_untie(model):
        return
    held = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    for name, layer in model.named_modules():
        if (
            isinstance(layer, SubspaceLayer)
            and layer.methods
            and not layer.followers
            and held[id(layer.frozen_weight)] > 1
        ):
            raise ValueError(
                f"{name} shares its weight with other modules, and no checkpoint of {type(model).__name__} can tell "
                "them apart: saved, the merged model would be another one; keep it unmerged, or merge_adapter() it for "
                "as long as it is in memory"
            )


def _can_untie(model: Any) -> bool:
    """Whether the model's config can say that nothing is tied: T5's cannot."""
    config: Any = getattr(model, "config", None)
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
