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
from subspace_tuning.tasks.ranks import accuracy_at_1, in_order, mrr_at_10, ndcg_at_10
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import Inputs


@register("retrieval")
@dataclass(frozen=True, kw_only=True)
class Retrieval(Pairs):
    """Trained by the ranking of its own text among those of a batch that do not belong to it; judged by that among all
    texts held out."""

    row = "a column of queries, and a column of texts that belong to them; a query may have several rows"
    metrics: ClassVar[dict[str, Any]] = {
        "ndcg_at_10": ndcg_at_10,
        "mrr_at_10": mrr_at_10,
        "accuracy_at_1": accuracy_at_1,
    }
    loss = "AmongOthers"

    columns: tuple[str, ...] = ("query", "text")

    def labels_in(self, table: Table) -> list[None]:
        return [None] * len(table)

    def group(self, row: Pair) -> str:
        return row.texts[0]

    def check_judged(self, rows: Sequence[Pair]) -> None:
        if len({row.texts[1] for row in rows}) < 2:
            raise BadInput("retrieval is judged among two texts or more, and the rows to judge by have one")

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
        belongs = np.zeros((len(queries), len(texts)), bool)
        belongs[tuple(labels.T)] = True
        found = [in_order(*query) for query in zip(queries @ texts.T, belongs, strict=True)]
        return {name: metric(found) for name, metric in self.metrics.items()}


def _distinct(vectors: NDArray, numbers: NDArray) -> NDArray:
    """Of the vectors (rows, dim) the first of each number, at length 1."""
    found = vectors[np.unique(numbers, return_index=True)[1]].astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
