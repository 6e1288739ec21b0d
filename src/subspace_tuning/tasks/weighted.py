"""Kinds whose rows have names of labels, of which rare ones may count for more in the loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.errors import BadInput
from subspace_tuning.rows.encode import IGNORED
from subspace_tuning.tasks.labels import checked_names
from subspace_tuning.tasks.task import Inputs, Task


@dataclass(frozen=True, kw_only=True)
class Weighted(Task):
    """labels: their names, in the order of the head's outputs. class_weights: how much each counts in the loss.

    ``balanced`` gives all names the same weight together, whatever their number in training.
    """

    labels: tuple[str, ...] = ()
    class_weights: Literal["balanced"] | tuple[PositiveFloat, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_names(self.labels)
        if isinstance(self.class_weights, tuple) and len(self.class_weights) != len(self.labels):
            raise BadInput(
                f"class_weights: {len(self.class_weights)} numbers for {len(self.labels)} labels; give one a label, in "
                "their order, or balanced"
            )

    @abstractmethod
    def balance(self, train: Sequence[Inputs]) -> NDArray:
        """The weights (labels,) that make names of the training rows count alike."""

    @abstractmethod
    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The mean over what is labelled, each weighted by its name."""

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        found = super().parts(processor, train, judged)
        if self.class_weights is None:
            return found
        weights = self.balance(train) if self.class_weights == "balanced" else np.array(self.class_weights)
        return {**found, "compute_loss_func": partial(self._loss, torch.tensor(weights, dtype=torch.float32))}

    def _loss(self, weights: Tensor, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """As transformers' Trainer calls it."""
        logits = outputs["logits"]
        return self.weighted_loss(logits.float(), labels, weights.to(logits.device))


def balanced(numbers: Sequence[int], classes: int) -> NDArray:
    """The weights of classes (classes,) with which rows of these numbers count alike."""
    return of_counts(np.bincount(numbers, minlength=classes))


def of_counts(counts: NDArray) -> NDArray:
    """n / (K n_k) for n rows, n_k of the class k, of the K classes that occur; 1 for the others. Both (classes,).

    As scikit-learn's ``balanced``: the mean weight of a row is 1, so that learning rates keep their meaning.
    """
    return np.where(counts, counts.sum() / ((counts > 0).sum() * counts.clip(1)), 1.0)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, ignored: int = IGNORED) -> Tensor:
    """The mean over n labels y_i that count of w_{y_i} times the cross-entropy. logits (..., classes), labels (...).

    Over their number and not over the sum of their weights, so that accumulated batches are one.
    """
    each = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), weight=weights, reduction="sum", ignore_index=ignored
    )
    return each / (labels != ignored).sum().clamp(min=1)
