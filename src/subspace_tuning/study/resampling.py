"""Bootstrap intervals and sign-flip tests of a mean over strata, by scipy, from a fixed seed.

A stratum holds the runs of one task; what is estimated is the mean over tasks of their means, as benchmarks average.
Tasks are fixed, seeds are drawn: runs are resampled within each task.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, permutation_test

LEVEL = 0.95
RESAMPLES = 1999
SEED = 20240705
EXACT = 13  # 2^13 flips of signs are all tried; of more, 4,999 at random


class Interval(NamedTuple):
    low: Any
    high: Any


Strata = Sequence[NDArray]  # (n_t,) each


def mean_of_means(*strata: NDArray, axis: int = -1) -> NDArray:
    return sum(stratum.mean(axis=axis) for stratum in strata) / len(strata)  # type: ignore[return-value]


def stretched(stratum: NDArray) -> NDArray:
    """x_bar + sqrt(n / (n - 1)) (x - x_bar), over the last axis.

    The mean of n resampled runs has the variance (n - 1) / n^2 sum (x - x_bar)^2 / (n - 1), too small by (n - 1) / n: a
    third at n = 3, whatever the number of tasks. Stretched runs have the right one.
    """
    n = stratum.shape[-1]
    mean = stratum.mean(axis=-1, keepdims=True)
    return mean + np.sqrt(n / (n - 1)) * (stratum - mean)


def mean_intervals(many: Sequence[Strata]) -> list[Interval]:
    """95 % intervals of means of the strata's means; NaN where a stratum has one run only."""

    def of(alike: Sequence[Strata]) -> Interval:
        return _interval([stretched(np.stack(stratum)) for stratum in zip(*alike, strict=True)], mean_of_means)

    return _by_shape(many, of)


def ratio_intervals(many: Sequence[Strata]) -> list[Interval]:
    """95 % intervals of sum_t mean(a_t) / sum_t mean(b_t); the pairs (a, b) of a stratum (2, n_t) stay together."""

    def of(alike: Sequence[Strata]) -> Interval:
        pairs = [stretched(np.stack(stratum, axis=1)) for stratum in zip(*alike, strict=True)]  # (2, alike, n_t) each

        def ratio(*rows: NDArray, axis: int = -1) -> NDArray:
            a, b = mean_of_means(*(pair[:, :, i.astype(int)] for pair, i in zip(pairs, rows, strict=True)), axis=axis)
            return a / b

        return _interval([np.arange(pair.shape[-1]) for pair in pairs], ratio, len(alike))

    return _by_shape(many, of)


def _by_shape(many: Sequence[Strata], intervals: Callable[[Sequence[Strata]], Interval]) -> list[Interval]:
    """Strata of the same sizes are resampled in one go, by the same draws."""
    found = [Interval(np.nan, np.nan)] * len(many)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for number, strata in enumerate(many):
        shapes.setdefault(tuple(stratum.shape[-1] for stratum in strata), []).append(number)
    for shape, numbers in shapes.items():
        if min(shape, default=0) > 1:
            low, high = intervals([many[i] for i in numbers])
            for i, *ends in zip(numbers, low, high, strict=True):
                found[i] = Interval(*map(float, ends))
    return found


def _interval(data: Sequence[NDArray], statistic: Callable[..., NDArray], alike: int = 1) -> Interval:
    """BCa, and percentiles where BCa is not defined (runs that are all the same, say).

    BCa counts resamples that tie with the estimate, a fifth of all at n = 3: rounding keeps floats from breaking ties.
    """

    def rounded(*samples: NDArray, axis: int = -1) -> NDArray:
        return np.round(statistic(*samples, axis=axis), 12)

    how = {"axis": -1, "vectorized": True, "confidence_level": LEVEL, "rng": np.random.default_rng(SEED)}
    how["batch"] = _batch(alike * sum(sample.size for sample in data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate data, which percentiles cover
        found = bootstrap(data, rounded, n_resamples=RESAMPLES, method="BCa", **how)
        plain = bootstrap(data, rounded, n_resamples=0, bootstrap_result=found, method="percentile", **how)
    best, sure = found.confidence_interval, plain.confidence_interval
    defined = np.isfinite(best.low) & np.isfinite(best.high)
    return Interval(np.where(defined, best.low, sure.low), np.where(defined, best.high, sure.high))


def sign_flip_ps(many: Sequence[Strata]) -> list[float]:
    """Two-sided p of paired differences (n_t,): that the mean of their means is zero, the sign of each being chance."""
    weighted = [np.concatenate([d / (len(strata) * len(d)) for d in strata]) for strata in many]
    found = [np.nan] * len(many)
    for size in {len(d) for d in weighted}:
        numbers = [i for i, d in enumerate(weighted) if len(d) == size]
        test = permutation_test(
            (np.stack([weighted[i] for i in numbers]),),
            lambda d, axis: d.sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
            axis=-1,
            n_resamples=2**EXACT if size <= EXACT else 4999,
            batch=_batch(len(numbers) * size),
            rng=np.random.default_rng(SEED),
        )
        for i, p in zip(numbers, test.pvalue, strict=True):
            found[i] = float(p)
    return found


def smallest_p(pairs: int) -> float:
    """2^(1 - n): the least p that a two-sided test of n flipped signs can come to."""
    return min(1.0, 2.0 ** (1 - pairs))


def _batch(size: int) -> int:
    """How many resamples of so many numbers to hold in memory at once."""
    return max(1, 2_000_000 // size)
