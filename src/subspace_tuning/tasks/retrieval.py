"""Which text of many answers a query: each finds those that belong to it by the cosine of their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table
from subspace_tuning.tasks.pairs import Pair, Pairs
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import Inputs


def ndcg_at_10(belongs: NDArray, cosines: NDArray) -> float:
    """The mean over queries; ties count as their mean order. Both (queries, texts)."""
    from sklearn.metrics import ndcg_score

    return float(ndcg_score(belongs, cosines, k=10))


def mrr_at_10(belongs: NDArray, cosines: NDArray) -> float:
    """The mean over queries of 1 / rank of the first text that belongs to it, 0 beyond the tenth."""
    best = np.where(belongs, cosines, -np.inf).max(1, keepdims=True)
    rank = 1 + (cosines > best).sum(1)
    return float(np.mean(np.where(rank <= 10, 1 / rank, 0.0)))


def accuracy_at_1(belongs: NDArray, cosines: NDArray) -> float:
    """The share of queries whose nearest text belongs to them."""
    return float(np.mean(belongs[np.arange(len(cosines)), cosines.argmax(1)]))


@register("retrieval")
@dataclass(frozen=True, kw_only=True)
class Retrieval(Pairs):
    """Trained by the ranking of its own text among all of the batch; judged by that among all texts held out."""

    row = "a column of queries, and a column of texts that belong to them; a query may have several rows"
    metrics: ClassVar = {"ndcg_at_10": ndcg_at_10, "mrr_at_10": mrr_at_10, "accuracy_at_1": accuracy_at_1}
    loss = "MultipleNegativesRankingLoss"

    columns: tuple[str, ...] = ("query", "text")

    def labels_in(self, table: Table) -> list[None]:
        return [None] * len(table)

    def group(self, row: Pair) -> str:
        return row.texts[0]

    def numbered(self, rows: Sequence[Pair]) -> list[tuple[int, int]]:
        """The number of the query and that of the text: the same for the same words."""
        queries: dict[str, int] = {}
        texts: dict[str, int] = {}
        return [
            (queries.setdefault(query, len(queries)), texts.setdefault(text, len(texts)))
            for query, text in (row.texts for row in rows)
        ]

    def scores(self, predictions: Any, labels: Any, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        queries, texts = (_distinct(vectors, labels[:, side]) for side, vectors in enumerate(predictions))
        if len(texts) < 2:
            raise BadInput("retrieval is judged among two texts or more, and the rows held out have one")
        belongs = np.zeros((len(queries), len(texts)), bool)
        belongs[tuple(labels.T)] = True
        return {name: metric(belongs, queries @ texts.T) for name, metric in self.metrics.items()}


def _distinct(vectors: NDArray, numbers: NDArray) -> NDArray:
    """Of the vectors (rows, dim) the first of each number, at length 1."""
    found = vectors[np.unique(numbers, return_index=True)[1]].astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
