"""Metrics: from predictions and labels to one number, the greater the better.

Where the textbooks leave one undefined, a warning names why. A correlation of predictions or labels that are all the
same is 0, as that of chance; so is the f1 of the second class where neither predictions nor labels have it. Of more
classes or labels, one that neither have is left out of the mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Names = Sequence[str]
TWO = ("0", "1")  # names of classes that have none


class Undefined(UserWarning):
    """A metric has no value on these rows, or leaves some of them out."""


def undefined(metric: str, why: str) -> None:
    """Warn that a metric is, and why."""
    warnings.warn(f"{metric} is undefined: {why}", Undefined, stacklevel=3)


def accuracy(predicted: NDArray, labels: NDArray, names: Names = TWO) -> float:
    return float(np.mean(predicted == labels))


def matthews_correlation(predicted: NDArray, labels: NDArray, names: Names = TWO) -> float:
    from sklearn.metrics import matthews_corrcoef

    for what, values in (("predictions", predicted), ("labels", labels)):
        if np.ptp(values) == 0:
            undefined("matthews_correlation", f"all {what} are {names[int(values[0])]!r}; it counts as 0")
            return 0.0
    return float(matthews_corrcoef(labels, predicted))


def pearson(predicted: NDArray, labels: NDArray) -> float:
    return _correlation("pearson", predicted, labels)


def spearman(predicted: NDArray, labels: NDArray) -> float:
    from scipy.stats import rankdata

    return _correlation("spearman", rankdata(predicted), rankdata(labels))


def _correlation(metric: str, predicted: NDArray, labels: NDArray) -> float:
    for what, values in (("predictions", predicted), ("labels", labels)):
        if np.std(values) == 0:
            undefined(metric, f"all {what} are the same; it counts as 0")
            return 0.0
    return float(np.corrcoef(predicted, labels)[0, 1])


def f1(predicted: NDArray, labels: NDArray, names: Names = TWO) -> float:
    """Of the second class with two classes, the mean over all the task's classes with more."""
    said, has = (np.equal.outer(values, np.arange(len(names))) for values in (predicted, labels))
    each = _each_f1("f1", said, has, names)
    return float(np.nan_to_num(each[1])) if len(names) == 2 else float(np.nanmean(each))


# Several labels a row: probabilities and labels (rows, labels)


def f1_micro(predicted: NDArray, labels: NDArray, names: Names, threshold: float) -> float:
    """Of all pairs of a row and a label together."""
    has, said = labels > 0, predicted >= threshold
    if not (has | said).any():
        undefined("f1_micro", "no row has a label, and none is predicted; it counts as 0")
        return 0.0
    return float(2 * (has & said).sum() / (has.sum() + said.sum()))


def f1_macro(predicted: NDArray, labels: NDArray, names: Names, threshold: float) -> float:
    """The mean over labels of the f1 of each."""
    each = _each_f1("f1_macro", predicted >= threshold, labels > 0, names)
    return 0.0 if np.isnan(each).all() else float(np.nanmean(each))


def mean_average_precision(predicted: NDArray, labels: NDArray, names: Names, threshold: float) -> float:
    """The mean over labels of the area below precision against recall, at whatever threshold."""
    from sklearn.metrics import average_precision_score

    held: NDArray = np.any(labels > 0, axis=0)
    if not held.all():
        missing = ", ".join(repr(names[int(i)]) for i in np.flatnonzero(~held))
        undefined("mean_average_precision", f"no row has the label {missing}; it is left out of the mean")
    each = [average_precision_score(labels[:, i] > 0, predicted[:, i]) for i in np.flatnonzero(held)]
    return float(np.mean(each)) if each else 0.0


def subset_accuracy(predicted: NDArray, labels: NDArray, names: Names, threshold: float) -> float:
    """The share of rows with all labels right."""
    return float(np.mean(((predicted >= threshold) == (labels > 0)).all(axis=1)))


def _each_f1(metric: str, said: NDArray, has: NDArray, names: Names) -> NDArray:
    """Of each column of (rows, names) truth values; NaN where nobody has or says one."""
    total = said.sum(axis=0) + has.sum(axis=0)
    counted = range(1, 2) if metric == "f1" and len(names) == 2 else range(len(names))
    missing = ", ".join(repr(names[i]) for i in counted if total[i] == 0)
    if missing:
        counts = "it counts as 0" if len(counted) == 1 else "it is left out of the mean"
        undefined(metric, f"neither labels nor predictions have {missing}; {counts}")
    return np.where(total == 0, np.nan, 2 * (said & has).sum(axis=0) / np.maximum(total, 1))
