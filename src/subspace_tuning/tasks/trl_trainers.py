"""TRL's trainers, made to take rows that are encoded already and to leave our models as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import PeftModel

REFERENCE = "ref"  # how DPOTrainer calls the copy that it makes of an adapter


class SupervisedTrainer(trl.SFTTrainer):
    """Rows of input_ids and labels."""

    def __init__(self, model: Any, *, train_dataset: Any, eval_dataset: Any = None, **others: Any):
        with _precise(model):
            super().__init__(model, train_dataset=_rows(train_dataset), eval_dataset=_rows(eval_dataset), **others)


class PreferenceTrainer(trl.DPOTrainer):
    """Rows of prompt_ids, chosen_ids and rejected_ids; the reference is the model with its adapter switched off.

    What is judged is a mean over rows. (TRL's is one over batches, in which a last row alone counts as much as a whole
    batch, and rows that fill up the last batch of several processes count twice.) Processes may have different numbers
    of rows in a batch.
    """

    def __init__(self, model: Any, *, train_dataset: Any, eval_dataset: Any = None, **others: Any):
        self._judged: list[int] = []  # rows of each batch since metrics were last noted
        with _precise(model):
            super().__init__(model, train_dataset=_rows(train_dataset), eval_dataset=_rows(eval_dataset), **others)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with _each_row_once(self.accelerator):
            told = super().compute_loss(model, inputs, *args, **kwargs)
            if not model.training:
                rows = torch.ones(len(inputs["input_ids"]) // 2, device=self.accelerator.device)
                self._judged.append(len(self.accelerator.gather(rows)))
        return told

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        noted = self._metrics["eval"]
        for name, means in noted.items():
            if len(means) == len(self._judged):
                noted[name] = [sum(n * mean for n, mean in zip(self._judged, means, strict=True)) / sum(self._judged)]
        super().log(logs, *args, **kwargs)
        if not noted:  # TRL has told them
            self._judged.clear()

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        self._signature_columns: Any = [*dict.fromkeys([*columns, "input_ids"])]  # to group rows by length


@contextmanager
def _each_row_once(accelerator: Any) -> Iterator[None]:
    """What is gathered has a number for each row, of however many a process has, but for those that fill up a batch."""
    gather, state = accelerator.gather, accelerator.gradient_state

    def gathered(values: Any) -> Any:
        if not values.dim():
            return gather(values)
        found = gather(accelerator.pad_across_processes(values, pad_index=math.nan))
        found = found[~found.isnan()]
        return found[: state.remainder] if state.end_of_dataloader and state.remainder > 0 else found

    accelerator.gather = gathered
    try:
        yield
    finally:
        del accelerator.gather


@contextmanager
def _precise(model: Any) -> Iterator[None]:
    """What TRL does to an adapter, undone: on quantised bases it rounds to bfloat16, for a reference it copies."""
    held = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    yield
    for parameter, data in held:
        parameter.data = data
    if isinstance(model, PeftModel) and REFERENCE in model.peft_config:
        model.delete_adapter(REFERENCE)


def _rows(rows: Any) -> Any:
    return Dataset.from_list(list(rows)) if isinstance(rows, list) else rows
