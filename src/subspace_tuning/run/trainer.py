"""transformers' Trainer, made to mean what a recipe says.

- Accumulated micro-batches count as one batch: each loss is weighed by its share of what it is a mean over, labels or
  rows. (Trainer sums the means of models that take ``num_items_in_batch``, whether they look at it or not; BERT does
  not, and its gradient is then as many times too large as there are micro-batches.)
- The order of the rows follows from the seed and the epoch, what a step draws from the seed and the step; those that it
  is judged by stay in their order.
- A checkpoint holds no pickle, and no model card.
- A run that had ended when it was interrupted takes no further step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import Trainer

from subspace_tuning import optim
from subspace_tuning.errors import BadInput
from subspace_tuning.files import state
from subspace_tuning.run import processes, sharded
from subspace_tuning.run.order import Order

OPTIMIZER = "optimizer.safetensors"
CARD = PeftModel.create_or_update_model_card.__name__
IGNORED = -100  # a label that counts for nothing


class RunTrainer(Trainer):
    """The trainer of one run. ``wanted`` is the recipe's optimiser; AdamW is made by Trainer itself.

    ``averaged`` says what the task's loss is a mean over, where that is not the labels.
    """

    wanted: str | dict[str, Any] = "adamw"
    averaged: Callable[[Mapping[str, Any]], int | None] | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None and self.args.label_smoothing_factor:
            raise BadInput("class_weights and trainer: label_smoothing_factor are two losses; leave one out")
        self.model_accepts_loss_kwargs = False  # the loss is to be the mean over the rows of a batch
        if self.is_fsdp_enabled:
            self._check_sharded()
        elif os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            raise BadInput("accelerate shards models on accelerators only, and there is none; leave FSDP out")

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        name = optim.check(self.wanted)[0]
        if self.is_fsdp_enabled and name not in optim.IN_PIECES:
            raise BadInput(f"optimizer: {name} multiplies whole factors, and FSDP shards them: take adamw or lora_plus")
        if self.optimizer is None and self.wanted != "adamw":
            trained: Any = self.model if model is None else model
            self.optimizer = optim.create(self.wanted, trained, self.args.learning_rate, self.args.weight_decay)
        return super().create_optimizer(model)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [self._losses(batch) for batch in samples]
        self.loss_is_scaled_for_ga = None not in counts
        return samples, processes.total(sum(map(int, counts))) if self.loss_is_scaled_for_ga else None  # type: ignore[arg-type]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the batch; in training, its share in the mean over all batches of all processes."""
        count = None if num_items_in_batch is None else self._losses(inputs)
        found = super().compute_loss(model, inputs, return_outputs)
        if count is None:
            return found
        share = count * processes.count() / max(num_items_in_batch, 1)  # gradients of processes are averaged
        return (found[0] * share, found[1]) if return_outputs else found * share

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Trainer's, whose loss is a mean over rows of means over batches: here over what batches' are means of."""
        self._weighed: list[tuple[torch.Tensor, float]] = []
        found: Any = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        total = processes.total(float(sum(loss * weight for loss, weight in self._weighed)))
        if weight := processes.total(sum(weight for _, weight in self._weighed)):
            found.metrics[f"{metric_key_prefix}_loss"] = total / weight
        return found

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found = super().prediction_step(model, inputs, *args, **kwargs)
        if found[0] is not None:
            self._weighed.append((found[0], (self._losses(inputs) or 0) * self._own_share()))
        return found

    def _own_share(self) -> float:
        """Of the rows of a batch, those that do not only fill it up for the other processes.

        A batch that is filled up in part has the mean over all of it: its loss is near the own rows', not theirs.
        """
        state, size = self.accelerator.gradient_state, self.args.eval_batch_size
        if processes.count() == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return 1.0
        return min(max(state.remainder - self.args.process_index * size, 0), size) / size

    def _losses(self, batch: Any) -> int | None:
        """How many losses the batch's is the mean of; None where nobody can say."""
        if self.averaged is not None and (count := self.averaged(batch)) is not None:
            return count
        labels = batch.get(next(iter(self.label_names), "labels"))
        if labels is None:
            return None
        if labels.is_floating_point():
            return len(labels)
        counted = labels[..., 1:] if self._loss_shifts_labels and labels.dim() > 1 else labels
        return int((counted != IGNORED).sum())

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        strategy = self.args.train_sampling_strategy
        if strategy not in ("random", "group_by_length"):
            return super()._get_train_sampler(rows)
        grouped = strategy == "group_by_length" and "input_ids" in rows[0]
        lengths = [len(row["input_ids"]) for row in rows] if grouped else None
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * processes.count()
        return Order(len(rows), seed, lengths, batch_size)

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        of_process: Any = loader.batch_sampler
        if processes.count() > 1 and isinstance(getattr(of_process.batch_sampler, "sampler", None), Order):
            order = of_process.batch_sampler.sampler
            of_process.batch_sampler = processes.Even(order, self.args.train_batch_size, processes.count())
            of_process.batch_size, of_process.even_batches = None, False
        return loader

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        saved: Any = self.state.stateful_callbacks
        has_stopped = saved.get("TrainerControl", {}).get("args", {}).get("should_training_stop")
        if has_stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    # What a step draws follows from its number (Saving.on_step_begin): there is no random state to keep.

    def _save_rng_state(self, output_dir: str) -> None:
        pass

    def _load_rng_state(self, checkpoint: str | None) -> None:
        pass

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        model: Any = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PeftModel):
            return super()._save(output_dir, state_dict)
        vars(model)[CARD] = lambda folder: None  # rendering it takes longer than a small step
        try:
            super()._save(output_dir, state_dict)
        finally:
            del vars(model)[CARD]

    # A checkpoint is the same whatever the number of processes, and goes on with another one.

    def _check_sharded(self) -> None:
        plugin, model = self.accelerator.state.fsdp_plugin, cast(Any, self.model)
        if plugin.fsdp_version != 2:
            raise BadInput("FSDP's first version flattens the matrices that methods train; take fsdp_version: 2")
        plugin.cpu_ram_efficient_loading = False  # what methods take from W is made in each process
        plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or sharded.blocks(model) or None
        sharded.takes_whole(model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.is_fsdp_enabled:
            self._save(output_dir, sharded.trained_state(cast(Any, self.model)))
        else:
            super().save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self._as_one_process():
            super()._load_from_checkpoint(*args, **kwargs)

    def _load_best_model(self) -> None:
        with self._as_one_process():
            super()._load_best_model()

    @contextmanager
    def _as_one_process(self) -> Iterator[None]:
        before, self.is_fsdp_enabled = self.is_fsdp_enabled, False
        try:
            yield
        finally:
            self.is_fsdp_enabled = before

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer, schedule = self._parts()
        held = {"optimizer": sharded.optimizer_state(optimizer), "schedule": schedule.state_dict()}
        if self.args.should_save:
            state.save(held, Path(output_dir, OPTIMIZER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            held, (optimizer, schedule) = state.load(Path(checkpoint, OPTIMIZER)), self._parts()
            sharded.load_optimizer(optimizer, held["optimizer"])
            schedule.load_state_dict(held["schedule"])

    def _parts(self) -> tuple[Any, Any]:
        return self.optimizer, self.lr_scheduler


def made_for(kind: type[Trainer]) -> type[RunTrainer]:
    """RunTrainer, over the trainer that a kind of task brings along."""
    return RunTrainer if kind is Trainer else type(RunTrainer.__name__, (RunTrainer, kind), {})
