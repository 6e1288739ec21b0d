"""Which of several labels a text, or a pair of texts, has: none, one or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table
from subspace_tuning.tasks.labelled import Labelled, LabelledTexts
from subspace_tuning.tasks.labels import label_sets, named
from subspace_tuning.tasks.metrics import f1_macro, f1_micro, mean_average_precision, subset_accuracy
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import Answer, Inputs
from subspace_tuning.tasks.weighted import Weighted


@register("multi_label")
@dataclass(frozen=True, kw_only=True)
class MultiLabel(Weighted, LabelledTexts):
    """labels: their names, in the order of the head's outputs. threshold: from which probability on a text has one.

    class_weights: of texts that have a label, against those that have not; ``balanced``: as many times as these are
    more.
    """

    row = (
        "one or two columns of text, and a column with the names of its labels: a list, or a text parted by |; or a "
        "column of 0 and 1 for each label"
    )
    metrics: ClassVar[dict[str, Any]] = {
        "f1_micro": f1_micro,
        "f1_macro": f1_macro,
        "mean_average_precision": mean_average_precision,
        "subset_accuracy": subset_accuracy,
    }

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        parted = next((name for name in self.labels if "|" in name), None)
        if parted is not None:
            raise BadInput(f"labels: {parted!r} has a |, by which the labels of a text are parted; call it otherwise")

    def config(self) -> dict[str, Any]:
        return {**named(self.labels), "problem_type": "multi_label_classification"}

    def labels_in(self, table: Table) -> list[tuple[float, ...]]:
        return label_sets(table, self.label, self.labels)

    def labels_of(self, row: Labelled) -> Sequence[str | float]:
        return tuple(name for name, held in zip(self.labels, row.label, strict=True) if held)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def balance(self, train: Sequence[Inputs]) -> NDArray:
        """Texts without a label over those with it, 1 where no text has it."""
        held = np.sum([row["labels"] for row in train], axis=0)
        return np.where(held, (len(train) - held) / held.clip(1), 1.0)

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=weights)

    def predicted(self, logits: NDArray) -> NDArray:
        """(rows, labels) -> the same: the probability of each label."""
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    def about(self) -> dict[str, Any]:
        return {"names": self.labels, "threshold": self.threshold}

    def answer(self, text: tuple[str, ...], logits: Tensor) -> Answer:
        sure = logits.sigmoid().tolist()
        held = [name for name, p in zip(self.labels, sure, strict=True) if p >= self.threshold]
        return Answer(text, "|".join(held))
