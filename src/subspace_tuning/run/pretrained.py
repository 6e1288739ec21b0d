"""A pretrained model for a task: the checkpoint, its tokenizer, its new head, and the method on top."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.adapter_folder import CONFIG, read_config
from subspace_tuning.files.assets import DEFAULT, SMALL_LM, SMALL_VIT, location
from subspace_tuning.files.checkpoint import shards
from subspace_tuning.run.recipe import FULL, HEAD, Recipe
from subspace_tuning.tasks import Task, texts
from subspace_tuning.tasks.language import LanguageTask
from subspace_tuning.tuner.adapter import read
from subspace_tuning.tuner.budget import is_in
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.put_on import put_on
from subspace_tuning.tuner.soft_prompts import SOFT

TYPES = ("SUBSPACE", *SOFT)  # soft prompts are handed over to PEFT


class Pretrained(NamedTuple):
    model: PreTrainedModel
    head: list[str]  # modules that the checkpoint did not carry


DTYPES = {None: "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(name: str, task: Task, seed: int = 0, dtype: str | None = None) -> Pretrained:
    """The checkpoint with a head for the task, which starts from the seed. Reads safetensors only, never pickles.

    dtype: fp32, bf16 or fp16, to which each tensor is taken as it is read; None: as the checkpoint has it.
    """
    shards(Path(location(name)))  # transformers opens whatever an index names
    try:
        torch.manual_seed(seed)
        model, info = getattr(transformers, task.head).from_pretrained(
            location(name),
            **task.config(),
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError, KeyError) as error:
        raise cannot_load("model", name, error) from error
    missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return Pretrained(model, _outermost(model, missing) if task.has_head else [])


def bare_model(name: str, task: Task, processor: Any) -> PreTrainedModel:
    """The same without its numbers."""
    try:
        config = AutoConfig.from_pretrained(location(name), **task.config(), trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = getattr(transformers, task.head).from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load("model", name, error) from error
    task.join(model, processor)
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    return load_processor(name, "AutoTokenizer")


@lru_cache(maxsize=2)
def load_processor(name: str, kind: str) -> Any:
    """What makes inputs of rows, by the class of transformers that a task names; a tokenizer pads in any case."""
    if name == DEFAULT and kind != "AutoTokenizer":
        raise BadInput(
            f"no model is named, and the usual one, {DEFAULT}, reads texts alone; name one that reads the rows"
        )
    what = kind.removeprefix("Auto").lower()
    try:
        processor = getattr(transformers, kind).from_pretrained(location(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(f"{what} of", name, error) from error
    if isinstance(processor, PreTrainedTokenizerBase) and processor.pad_token is None:
        texts.pad(processor, _padding(name))
    return processor


def _padding(name: str) -> int | None:
    """The padding token of a model's config."""
    try:
        return getattr(AutoConfig.from_pretrained(location(name), trust_remote_code=False), "pad_token_id", None)
    except (OSError, ValueError, KeyError):
        return None


def check_model(name: str) -> None:
    """Raises BadInput where there is no such model, before anything is read but its config."""
    if name in (DEFAULT, SMALL_LM, SMALL_VIT):
        return
    try:
        AutoConfig.from_pretrained(location(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load("model", name, error) from error


def check_inputs(recipes: Iterable[Recipe]) -> None:
    """Raises BadInput where a model or the data of one of the recipes is not there."""
    recipes = list(recipes)
    for name in dict.fromkeys(recipe.model for recipe in recipes):
        check_model(name)
    for task, data in dict.fromkeys((recipe.task_object(), recipe.data) for recipe in recipes if recipe.data):
        if not Path(data).expanduser().exists() and not isinstance(task, LanguageTask):  # which may be on the hub
            raise BadInput(f"there is no data file or folder {Path(data).expanduser().absolute()}")


def cannot_load(what: str, name: str, error: Exception) -> BadInput:
    """What to say of a model that cannot be loaded: where a folder was looked for, or what is wrong with it."""
    folder = Path(location(name)).absolute()
    if not folder.exists():
        return BadInput(
            f"cannot load the {what} {name!r}: there is no folder {folder}, and no model of that name within reach "
            "on the hub; a relative path counts from the folder one is in"
        )
    said = str(error).strip().splitlines()
    return BadInput(f"cannot load the {what} {name!r}: {said[0] if said else type(error).__name__}")


def _outermost(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """The outermost modules of which every parameter is missing; at least the usual heads."""
    missing = set(missing)
    names = {name for name, _ in model.named_parameters()}
    found: list[str] = []
    for key in sorted(missing & names):
        parts = key.split(".")
        prefixes = (".".join(parts[:depth]) for depth in range(1, len(parts)))
        whole = next((p for p in prefixes if all(k in missing for k in names if k.startswith(p + "."))), None)
        if whole and whole not in found:
            found.append(whole)
    return found + [name for name in usual_heads(model) if name not in found]


def usual_heads(model: nn.Module) -> list[str]:
    """The modules that are a head by their name."""
    return [name for name, _ in model.named_children() if name in ("classifier", "score", "qa_outputs")]


def adapt(pretrained: Pretrained, recipe: Recipe) -> nn.Module:
    """The model ready to train: the method's parameters and the head; without a method everything, or the head."""
    model, head = pretrained
    if recipe.is_plain:
        for name, parameter in model.named_parameters() if recipe.method != FULL else ():
            parameter.requires_grad_(recipe.method == HEAD and is_in(name, head))
        return model
    torch.manual_seed(recipe.seed)
    return put_on(model, config_of(recipe, head))


def config_of(recipe: Recipe, head: list[str]) -> SubspaceConfig:
    """The recipe's method on its modules, with a head of its own."""
    with as_bad_input((ValueError, TypeError)):
        return SubspaceConfig(
            method=recipe.method_object(),
            mpc=recipe.mpc,
            mpc_weight=recipe.mpc_weight,
            task_type=recipe.task_object().task_type,
            target_modules=recipe.target_modules,
            exclude_modules=recipe.exclude_modules,
            layers_to_transform=recipe.layers_to_transform,
            layers_pattern=recipe.layers_pattern,
            modules_to_save=[*head, *(recipe.modules_to_save or [])],
            rank_pattern=recipe.rank_pattern,
            alpha_pattern=recipe.alpha_pattern,
        )


def attach(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with the adapter of a folder. Raises BadInput for a broken adapter or one of another shape."""
    _check_config(folder)
    return read(folder).on(model)


def _check_config(folder: Path) -> None:
    if read_config(folder).get("peft_type") not in TYPES:
        raise BadInput(
            f"{folder / CONFIG} is not the config of an adapter made by subspace-tuning (peft_type SUBSPACE)"
        )
