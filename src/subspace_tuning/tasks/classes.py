"""One of several classes a row: what kinds share whose answer is a class, be it of a text or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.tasks.labels import checked_names, named
from subspace_tuning.tasks.metrics import accuracy, f1, matthews_correlation
from subspace_tuning.tasks.task import Answer, Task


@dataclass(frozen=True, kw_only=True)
class Classes(Task):
    """labels: the names of the classes, in the order of the head's outputs."""

    metrics: ClassVar = {"accuracy": accuracy, "matthews_correlation": matthews_correlation, "f1": f1}

    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_names(self.labels)

    def config(self) -> dict[str, Any]:
        return {**named(self.labels), "problem_type": "single_label_classification"}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def predicted(self, logits: NDArray) -> NDArray:
        return np.argmax(logits, axis=-1)

    def about(self) -> dict[str, Any]:
        return {"names": self.labels}

    def answer(self, text: tuple[str, ...], logits: Tensor) -> Answer:
        sure = logits.softmax(-1)
        best = int(sure.argmax())
        return Answer(text, self.labels[best], sure[best].item())
