"""Metrics of order: how high the relevant texts of a query stand, a mean over queries.

A query is the array of its texts' relevances, 0 for none, in the order of their scores (``in_order``). One without a
relevant text is left out, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from subspace_tuning.tasks.metrics import undefined

AT = 10  # how many texts of a query count
_DISCOUNT = 1 / np.log2(np.arange(2, AT + 2))


def in_order(scores: NDArray, relevance: NDArray) -> NDArray:
    """The relevances (texts,), highest score first; texts of one score stand as badly as they could."""
    return relevance[np.lexsort((relevance, -scores))]


def ndcg_at_10(queries: Sequence[NDArray]) -> float:
    """nDCG@10: sum_i relevance_i / log2(1 + i) over the first ten, over the most that it could be."""

    def gain(ranked: NDArray) -> float:
        return float(ranked[:AT] @ _DISCOUNT[: len(ranked)])

    return _mean("ndcg_at_10", lambda ranked: gain(ranked) / gain(np.sort(ranked)[::-1]), queries)


def mrr_at_10(queries: Sequence[NDArray]) -> float:
    """1 over the place of the first relevant text, 0 where it is not among the first ten."""

    def of_query(ranked: NDArray) -> float:
        place = int(np.argmax(ranked > 0))
        return 1 / (1 + place) if place < AT else 0.0

    return _mean("mrr_at_10", of_query, queries)


def average_precision(queries: Sequence[NDArray]) -> float:
    """The mean, over the relevant texts of a query, of the share of relevant ones down to that place."""

    def of_query(ranked: NDArray) -> float:
        relevant = ranked > 0
        return float((np.cumsum(relevant) / np.arange(1, len(ranked) + 1))[relevant].mean())

    return _mean("average_precision", of_query, queries)


def accuracy_at_1(queries: Sequence[NDArray]) -> float:
    """The share of queries whose first text is relevant."""
    return _mean("accuracy_at_1", lambda ranked: float(ranked[0] > 0), queries)


def _mean(metric: str, of_query: Callable[[NDArray], float], queries: Sequence[NDArray]) -> float:
    found = [of_query(ranked) for ranked in queries if (ranked > 0).any()]
    if len(found) < len(queries):
        left_out = len(queries) - len(found)
        undefined(metric, f"{left_out} of {len(queries)} queries have no relevant row; they are left out")
    return float(np.mean(found)) if found else 0.0
