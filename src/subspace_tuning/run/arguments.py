"""A recipe in the words of transformers."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler

from subspace_tuning.errors import BadInput, as_bad_input, nearest
from subspace_tuning.optim import check, check_installed
from subspace_tuning.run import processes
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import Recipe
from subspace_tuning.tasks.language import LENGTH

OWN = {  # arguments that the run itself decides, and what in a recipe says them
    **{"output_dir": "output", "learning_rate": "learning_rate", "seed": "seed", "bf16": "bf16"},
    **{"per_device_train_batch_size": "batch_size", "per_device_eval_batch_size": "eval_batch_size"},
    **{"gradient_accumulation_steps": "gradient_accumulation", "num_train_epochs": "epochs", "max_steps": "max_steps"},
    **{"eval_strategy": "evaluate_every", "eval_steps": "evaluate_every", "eval_delay": "evaluate_every"},
    **{"save_strategy": "save_every", "save_steps": "save_every", "load_best_model_at_end": "checkpoint"},
    **{"metric_for_best_model": "metric", "greater_is_better": "metric", "logging_steps": "log_every"},
    **{"max_length": "max_length", "packing": "packing", "beta": "beta"},
}
FIXED = (  # arguments without which a run could not be judged, watched or resumed
    *("save_total_limit", "save_only_model", "ignore_data_skip", "resume_from_checkpoint", "auto_find_batch_size"),
    *("restore_callback_states_from_checkpoint", "logging_strategy", "logging_nan_inf_filter", "label_names"),
    *("prediction_loss_only", "batch_eval_metrics", "push_to_hub", "remove_unused_columns", "full_determinism"),
    *(
        "dataset_kwargs",
        "eval_packing",
        "padding_free",
        "completion_only_loss",
        "assistant_only_loss",
        "dataset_text_field",
    ),
    *("include_for_metrics", "eval_do_concat_batches", "save_on_each_node"),
)


def arguments(recipe: Recipe, folder: RunFolder) -> TrainingArguments:
    """transformers' arguments for a recipe; ``trainer:`` in it adds any others.

    Raises BadInput for one that does not exist, that the recipe says by a name of its own, or that cannot be used.
    """
    kind, own = recipe.task_object().arguments()
    known = set(kind.__dataclass_fields__)
    for key in recipe.trainer:
        if key not in known:
            raise BadInput(f"trainer: {key!r} is not a field of {kind.__name__}: {nearest(key, known)}")
        if key in OWN:
            raise BadInput(f"trainer: {key!r} is what the recipe's own {OWN[key]!r} says; set that")
        if key in FIXED:
            raise BadInput(f"trainer: {key!r} is set so that a run can be judged and resumed; leave it out")
    check_installed(check(recipe.optimizer)[0])
    with as_bad_input((ValueError, TypeError, ImportError)):
        length = {"max_length": recipe.max_length or LENGTH} if "max_length" in known else {}
        made = kind(**{**_values(recipe, folder), **length, **own, **recipe.trainer})
        _try_out(made)
    if processes.count() > 1:  # what methods take from W is made in each process, before it is sharded
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return made


def _values(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    steps_between = recipe.evaluate_every if isinstance(recipe.evaluate_every, int) else None
    evaluate = {"epoch": "epoch", "end": "no"}.get(str(recipe.evaluate_every), "steps")
    save_every = recipe.evaluate_every if recipe.checkpoint == "best" else recipe.save_every
    values: dict[str, Any] = {
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "output_dir": str(folder.checkpoints),
        "seed": recipe.seed,
        "learning_rate": recipe.learning_rate,
        "per_device_train_batch_size": processes.share_of(recipe.batch_size or 1, "batch_size"),
        "per_device_eval_batch_size": -(-recipe.eval_batch_size // processes.count()),
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "weight_decay": recipe.weight_decay,
        "warmup_steps": recipe.warmup,  # below 1: a share of all steps
        "lr_scheduler_type": recipe.schedule,
        "max_grad_norm": recipe.max_grad_norm,
        "train_sampling_strategy": "group_by_length" if recipe.group_by_length else "random",
        "bf16": recipe.in_bf16,
        "use_cpu": not torch.accelerator.is_available(),
        "eval_strategy": evaluate,
        "eval_steps": steps_between,
        "save_strategy": {"epoch": "epoch", "never": "no"}.get(str(save_every), "steps"),
        "save_steps": save_every if isinstance(save_every, int) else 500,
        "load_best_model_at_end": recipe.checkpoint == "best",
        "metric_for_best_model": recipe.task_object().metric,
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": recipe.log_every,
        "logging_nan_inf_filter": False,
        "report_to": recipe.report_to or "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if recipe.gradient_checkpointing:
        values["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    return values


def _try_out(made: TrainingArguments) -> None:
    """Make an optimiser and a schedule for one number, so that what cannot be made is said early."""
    kind, how = Trainer.get_optimizer_cls_and_kwargs(made)
    if {"params", "model", "optimizer_dict"} & set(how):  # wants to see the model
        return
    optimizer = kind([nn.Parameter(torch.zeros(1))], **how)
    of_schedule: Any = made.lr_scheduler_kwargs
    get_scheduler(
        made.lr_scheduler_type,
        optimizer,
        made.get_warmup_steps(2),
        2,
        scheduler_specific_kwargs=of_schedule,
    )
