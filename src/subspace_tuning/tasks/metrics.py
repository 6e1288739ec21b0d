"""Metrics: from predictions and labels to one number, the greater the better.

Where the textbooks leave them undefined: a correlation of predictions or labels that are all the same is 0, as that of
chance; so is the f1 of class 1 where neither predictions nor labels have it; with more classes, one that neither have
is left out of the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def accuracy(predicted: NDArray, labels: NDArray, num_labels: int = 2) -> float:
    return float(np.mean(predicted == labels))


def matthews_correlation(predicted: NDArray, labels: NDArray, num_labels: int = 2) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predicted))


def pearson(predicted: NDArray, labels: NDArray) -> float:
    if np.std(predicted) == 0 or np.std(labels) == 0:
        return 0.0
    return float(np.corrcoef(predicted, labels)[0, 1])


def spearman(predicted: NDArray, labels: NDArray) -> float:
    from scipy.stats import rankdata

    return pearson(rankdata(predicted), rankdata(labels))


def f1(predicted: NDArray, labels: NDArray, num_labels: int = 2) -> float:
    """Of class 1 with two classes, the mean over all the task's classes with more."""
    from sklearn.metrics import f1_score

    if num_labels == 2:
        return float(f1_score(labels, predicted, labels=[0, 1], pos_label=1, zero_division=0.0))
    return float(f1_score(labels, predicted, labels=range(num_labels), average="macro", zero_division=np.nan))
