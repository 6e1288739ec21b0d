"""TRL's trainers, made to take rows that are encoded already and to leave our models as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    """Rows of prompt_ids, chosen_ids and rejected_ids; the reference is the model with its adapter switched off."""

    def __init__(self, model: Any, *, train_dataset: Any, eval_dataset: Any = None, **others: Any):
        with _precise(model):
            super().__init__(model, train_dataset=_rows(train_dataset), eval_dataset=_rows(eval_dataset), **others)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        self._signature_columns: Any = [*dict.fromkeys([*columns, "input_ids"])]  # to group rows by length


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
