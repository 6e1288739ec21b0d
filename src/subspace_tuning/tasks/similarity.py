"""How alike two texts are, as the cosine of their vectors says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table
from subspace_tuning.tasks.labels import numbers
from subspace_tuning.tasks.metrics import pearson, spearman
from subspace_tuning.tasks.pairs import Pair, Pairs, cosines
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import Inputs


@register("similarity")
@dataclass(frozen=True, kw_only=True)
class Similarity(Pairs):
    """Trained by CoSENT: pairs that are more alike are to have the greater cosine, on whatever scale labels are."""

    row = "two columns of text, and a column with the number that says how alike they are"
    metrics: ClassVar[dict[str, Any]] = {"spearman": spearman, "pearson": pearson}
    loss = "CoSENTLoss"

    label: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label in self.columns:
            raise BadInput(f"label={self.label!r} is a column of texts; name the one that holds numbers")

    def labels_in(self, table: Table) -> list[float]:
        return numbers(table, self.label)

    def labels_of(self, row: Pair) -> Sequence[str | float]:
        return () if row.label is None else (row.label,)

    def numbered(self, rows: Sequence[Pair]) -> list[float | None]:
        return [row.label for row in rows]

    def scores(self, predictions: Any, labels: Any, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        found = cosines(*predictions)
        return {name: metric(found, labels) for name, metric in self.metrics.items()}
