"""The number that belongs to a text, or to a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.files.table import Table
from subspace_tuning.tasks.labelled import LabelledTexts
from subspace_tuning.tasks.labels import numbers
from subspace_tuning.tasks.metrics import pearson, spearman
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import Answer, Inputs


@register("regression")
@dataclass(frozen=True, kw_only=True)
class Regression(LabelledTexts):
    """The head has one output."""

    row = "one or two columns of text, and a column with a number"
    metrics: ClassVar[dict[str, Any]] = {"pearson": pearson, "spearman": spearman}

    def config(self) -> dict[str, Any]:
        names = {0: self.label}
        return {"num_labels": 1, "id2label": names, "label2id": {self.label: 0}, "problem_type": "regression"}

    def labels_in(self, table: Table) -> list[float]:
        return numbers(table, self.label)

    @torch.no_grad()
    def start(self, model: Any, head: Sequence[str], train: Sequence[Inputs]) -> None:
        """Let a new head answer with the mean label at first; a trained head, or one without a bias, stays.

        From zero, the first steps push all rows along one direction until the mean is met, and low-rank methods can end
        there, with one answer for every row (docs/study.md).
        """
        mean = fmean(row["labels"] for row in train)
        for path in head:
            for module in model.get_submodule(path).modules():
                if isinstance(module, nn.Linear) and module.out_features == 1 and module.bias is not None:
                    module.bias.fill_(module.bias.item() or mean)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(logits.squeeze(), labels.squeeze().to(logits.dtype))

    def predicted(self, logits: NDArray) -> NDArray:
        return logits.reshape(len(logits))

    def answer(self, text: tuple[str, ...], logits: Tensor) -> Answer:
        return Answer(text, logits.item())
