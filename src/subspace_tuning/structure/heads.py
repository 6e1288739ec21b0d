"""The head of a model: what was put on top of the pretrained part for a task, and what makes words of its outputs."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

# heads that stand inside the pretrained part, or in models that do not say which part that is
HEADS = {
    "classifier",
    "pre_classifier",
    "score",
    "pooler",
    "qa_outputs",
    "lm_head",
    "cls",
    "predictions",
    "sop_classifier",
    "layernorm_head",
    "contact_head",
}


def heads(model: nn.Module) -> set[str]:
    """Names of the modules that are the head, none of them inside another; poolers are part of it."""
    found = {name for name, _ in model.named_modules() if HEADS & _outside(name)}
    if isinstance(model, PreTrainedModel):
        base = model.base_model
        output = model.get_output_embeddings()
        found |= {name for name, child in model.named_children() if base is not model and child is not base}
        found |= {name for name, module in model.named_modules() if module is output}
    return {name for name in found if name and not is_in(name.rpartition(".")[0], found)}


def _outside(name: str) -> set[str]:
    """The parts of a name outside any list of blocks: a router in one may be called classifier."""
    return set(re.split(r"\.\d+(?:\.|$)", name, maxsplit=1)[0].split("."))


def is_in(name: str, modules: Collection[str]) -> bool:
    """Whether a module is one of these, or inside one."""
    parts = name.split(".")
    return any(".".join(parts[:i]) in modules for i in range(1, len(parts) + 1))
