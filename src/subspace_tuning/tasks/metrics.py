"""Metrics of text tasks: from predictions and labels to one number, the greater the better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def accuracy(predicted: NDArray, labels: NDArray) -> float:
    return float(np.mean(predicted == labels))


def matthews_correlation(predicted: NDArray, labels: NDArray) -> float:
    """0 when all predictions are the same."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predicted))


def pearson(predicted: NDArray, labels: NDArray) -> float:
    """0 when all predictions are the same."""
    if np.std(predicted) == 0 or np.std(labels) == 0:
        return 0.0
    return float(np.corrcoef(predicted, labels)[0, 1])


def spearman(predicted: NDArray, labels: NDArray) -> float:
    from scipy.stats import rankdata

    return pearson(rankdata(predicted), rankdata(labels))


def f1(predicted: NDArray, labels: NDArray) -> float:
    """Of class 1 with two classes, the mean over classes with more."""
    from sklearn.metrics import f1_score

    average = "binary" if max(labels.max(), predicted.max()) <= 1 else "macro"
    return float(f1_score(labels, predicted, average=average))


CLASSIFICATION: dict[str, Callable[[NDArray, NDArray], float]] = {
    "accuracy": accuracy,
    "matthews_correlation": matthews_correlation,
    "f1": f1,
}
REGRESSION: dict[str, Callable[[NDArray, NDArray], float]] = {"pearson": pearson, "spearman": spearman}
