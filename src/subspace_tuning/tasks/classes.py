"""One of several classes a row: what kinds share whose answer is a class, be it of a text, a picture or a sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.tasks.labels import named
from subspace_tuning.tasks.metrics import accuracy, f1, matthews_correlation
from subspace_tuning.tasks.task import Answer, Inputs
from subspace_tuning.tasks.weighted import Weighted, balanced, weighted_cross_entropy


@dataclass(frozen=True, kw_only=True)
class Classes(Weighted):
    """labels: the names of the classes, in the order of the head's outputs. class_weights: balanced, or one a class."""

    metrics: ClassVar[dict[str, Any]] = {"accuracy": accuracy, "matthews_correlation": matthews_correlation, "f1": f1}

    def config(self) -> dict[str, Any]:
        return {**named(self.labels), "problem_type": "single_label_classification"}

    def labels_of(self, row: Any) -> Sequence[str | float]:
        return (self.labels[row.label],)

    def balance(self, train: Sequence[Inputs]) -> NDArray:
        return balanced([row["labels"] for row in train], len(self.labels))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return weighted_cross_entropy(logits, labels, weights)

    def predicted(self, logits: NDArray) -> NDArray:
        return np.argmax(logits, axis=-1)

    def about(self) -> dict[str, Any]:
        return {"names": self.labels}

    def answer(self, text: tuple[str, ...], logits: Tensor) -> Answer:
        sure = logits.softmax(-1)
        best = int(sure.argmax())
        return Answer(text, self.labels[best], sure[best].item())
