"""What training will need, told from a model's config and a method alone, before a weight is read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto as auto
from transformers.utils import logging

from subspace_tuning.bench.needs import DTYPES, Needs, Setting, needs
from subspace_tuning.bench.trace import Batch, Trace
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.optim import check
from subspace_tuning.run import processes
from subspace_tuning.run.pretrained import config_of, usual_heads
from subspace_tuning.run.recipe import HEAD, NONE, Recipe
from subspace_tuning.tasks.language import LENGTH
from subspace_tuning.tuner import budget
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.put_on import put_on
from subspace_tuning.weights.embedding import positions

KINDS: dict[str, Mapping[str, Any]] = {  # what is usually fine-tuned, the first that a model's type can be
    "AutoModelForSeq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForImageClassification": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}


class TooLong(BadInput):
    """Rows that have more tokens than the model has positions."""


Method = Callable[[list[str]], SubspaceConfig]  # of the names of the modules of a new head


@dataclass(frozen=True)
class Subject:
    """A model by its config, and what is trained of it: a method's parameters and a new head, or FULL, or HEAD.

    kind: the class of transformers that makes the model.
    """

    config: PreTrainedConfig
    method: Method | str
    kind: str
    _traces: dict[Any, tuple[nn.Module, Trace]] = field(default_factory=dict, compare=False, repr=False)

    def at(self, setting: Setting) -> Needs:
        """What a step needs there."""
        s = setting
        key = (s.dtype, s.autocast, s.gradient_checkpointing, s.device)
        if key not in self._traces:
            made = self._model(s)
            room = positions(made)
            if room is not None and s.length > room:
                raise TooLong(f"rows of {s.length} tokens are longer than the {room} positions of the model")
            words = getattr(self.config.get_text_config(), "vocab_size", None)
            self._traces[key] = made, Trace(made, torch.bfloat16 if s.autocast else None, s.device, words)
        model, trace = self._traces[key]
        return needs(model, trace(partial(self._inputs, s), s.batch * s.length), s)

    def _model(self, s: Setting) -> nn.Module:
        """On the meta device."""
        logging.set_verbosity_error()
        config = _without_attention_dropout(self.config) if s.device == "cuda" else self.config
        with torch.device("meta"), as_bad_input((ValueError, KeyError, TypeError, AttributeError)):
            model: Any = getattr(transformers, self.kind).from_config(config, dtype=DTYPES[s.dtype])
        head = usual_heads(model)
        if self.method == HEAD:
            for name, p in model.named_parameters():
                p.requires_grad_(budget.is_in(name, head))
        elif callable(self.method):
            model = put_on(model, self.method(head))
        if s.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    def _inputs(self, s: Setting) -> Batch:
        """A batch without padding."""
        classes = torch.empty(s.batch, dtype=torch.float if self.config.num_labels == 1 else torch.long)
        if self.kind == "AutoModelForImageClassification":
            size = self.config.image_size
            sides = size if isinstance(size, list | tuple) else (size, size)
            return {"pixel_values": torch.empty(s.batch, self.config.num_channels, *sides), "labels": classes}
        ids = torch.empty(s.batch, s.length, dtype=torch.long)
        return {"input_ids": ids, "labels": classes if "Classification" in self.kind else ids}


def subject(model: str, method: Method | str) -> Subject:
    """A model by its name on the hub, folder or config.json, with the head that is usual for its type."""
    config = budget.config_of(model)
    own = (config.architectures or [""])[0]
    causal = own.endswith(("ForCausalLM", "LMHeadModel"))
    kinds = [kind for kind, types in KINDS.items() if config.model_type in types]
    if not kinds:
        raise BadInput(f"a {config.model_type} is no model of texts or images whose training steps are known")
    return Subject(config, method, "AutoModelForCausalLM" if causal else kinds[0])


def of_recipe(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> Needs | None:
    """What a resolved recipe's steps need on its longest rows.

    None where nothing is trained, or can be, and for models of another kind.
    """
    task = recipe.task_object()
    if recipe.method == NONE or task.head not in KINDS:
        return None
    config = budget.config_of(recipe.model)
    for name, value in task.config().items():
        setattr(config, name, value)
    method = recipe.method if recipe.is_plain else partial(config_of, recipe)
    optimizer = str(recipe.trainer.get("optim") or check(recipe.optimizer)[0])
    setting = Setting(
        batch=processes.share_of(recipe.batch_size or 1, "batch_size"),
        length=max((len(row["input_ids"]) for row in rows if "input_ids" in row), default=recipe.max_length or LENGTH),
        dtype=recipe.dtype or next((name for name, dtype in DTYPES.items() if dtype == config.dtype), "fp32"),
        autocast=recipe.in_bf16,
        optimizer="sgd" if "sgd" in optimizer else "adamw8bit" if "8bit" in optimizer else "adamw",
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_accumulation=recipe.gradient_accumulation,
        processes=processes.count(),
        sharding="fsdp" if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" else "ddp",
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    try:
        return Subject(config, method, task.head).at(setting)
    except TooLong:  # which training refuses, with what to do
        return None


def told(needs: Needs, room: int) -> str:
    """In one sentence: the peak, what it is made of, and a warning where it is more than the bytes there are."""
    parts = {"weights": needs.weights, "optimiser": needs.gradients + needs.optimizer}
    parts |= {"activations": needs.activations, "logits": needs.logits}
    of = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size >= 5e6)
    where = "memory of the card" if needs.setting.device == "cuda" else "memory"
    said = f"training needs about {needs.peak / 1e9:.2f} GB of {where}" + (f" ({of})" if of else "")
    if needs.peak <= room:
        return said
    return f"warning: {said}, and there are {room / 1e9:.2f} GB; `subspace estimate --fit` says what fits"


def _without_attention_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """Kernels of a card drop attention probabilities without ever writing them down."""
    names = [name for name in config.to_dict() if name in ("attention_probs_dropout_prob", "attention_dropout")]
    return type(config).from_dict({**config.to_dict(), **dict.fromkeys(names, 0.0)})


def largest_batch(subject: Subject, setting: Setting, limit: float) -> Needs | None:
    """What the largest batch within so many bytes needs; None where one row is too much.

    Memory grows with the rows, after the first ones by the same for each: two traces say where to look.
    """
    one, two = (subject.at(replace(setting, batch=batch)) for batch in (1, 2))
    if one.peak > limit:
        return None
    fits, tried = one, {1: one, 2: two}
    guess = 1 + int((limit - one.peak) // max(two.peak - one.peak, 1))
    while guess not in tried:
        found = tried[guess] = subject.at(replace(setting, batch=guess))
        slope = max((found.peak - one.peak) / (guess - 1), 1)
        guess = 1 + math.floor((limit - one.peak) / slope)
    return max((n for n in tried.values() if n.peak <= limit), key=lambda n: n.setting.batch, default=fits)


def what_helps(subject: Subject, setting: Setting) -> Iterator[Needs]:
    """One row, with one thing changed after the other, each kept; those that save nothing are left out."""
    last = subject.at(replace(setting, batch=1))
    changes: list[dict[str, Any]] = [{"gradient_checkpointing": True}, {"dtype": "bf16", "autocast": False}]
    changes += [{"optimizer": "adamw8bit"}, {"length": setting.length // 2}, {"sharding": "fsdp", "processes": 8}]
    for change in changes:
        found = subject.at(replace(last.setting, **change))
        if found.peak < last.peak:
            last = found
            yield found
