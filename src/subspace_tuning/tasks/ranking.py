"""How relevant a text is to a query, both read together: a cross-encoder, judged by the order of each query's texts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.errors import BadInput
from subspace_tuning.files import assets
from subspace_tuning.files.table import Table
from subspace_tuning.tasks.labelled import Labelled, LabelledTexts
from subspace_tuning.tasks.labels import numbers
from subspace_tuning.tasks.ranks import average_precision, in_order, mrr_at_10, ndcg_at_10
from subspace_tuning.tasks.registry import know, register
from subspace_tuning.tasks.task import ABOUT, Answer, Inputs, Task

CANDIDATES = 10  # answers to choose from, for each question of the known task


@register("ranking")
@dataclass(frozen=True, kw_only=True)
class Ranking(LabelledTexts):
    """columns: of the query and of the text. most: the highest relevance, which stands for the probability 1."""

    row = "a query, a text, and a number from 0, how relevant the text is; a query has several rows"
    metrics: ClassVar[dict[str, Any]] = {
        "ndcg_at_10": ndcg_at_10,
        "mrr_at_10": mrr_at_10,
        "average_precision": average_precision,
    }

    columns: tuple[str, ...] = ("query", "text")
    most: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.columns) != 2:
            raise BadInput(f"ranking has a column of queries and one of texts, got columns={list(self.columns)}")

    def config(self) -> dict[str, Any]:
        """One output, trained by binary cross-entropy."""
        names = {0: self.label}
        return {
            "num_labels": 1,
            "id2label": names,
            "label2id": {self.label: 0},
            "problem_type": "multi_label_classification",
        }

    def labels_in(self, table: Table) -> list[float]:
        found = numbers(table, self.label)
        for row, value in enumerate(found):
            if not 0 <= value <= self.most:
                raise BadInput(
                    f"{table.place(row)}: the label is {value:g}, expected 0 to most={self.most:g}; set most to the "
                    "highest relevance there is"
                )
        return found

    def group(self, row: Labelled) -> Hashable:
        return row.texts[0]

    def inputs_of(self, row: Labelled) -> Inputs:
        return {ABOUT: row.texts[0]} | ({} if row.label is None else {"labels": [row.label / self.most]})

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def predicted(self, logits: NDArray) -> NDArray:
        return logits.reshape(len(logits))

    def scores(self, predictions: Any, labels: NDArray, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        said, relevance = self.predicted(self.logits(predictions)), labels.reshape(-1)
        rows: dict[Hashable, list[int]] = {}
        for i, row in enumerate(judged):
            rows.setdefault(row[ABOUT], []).append(i)
        queries = [in_order(said[chosen], relevance[chosen]) for chosen in rows.values()]
        return {name: metric(queries) for name, metric in self.metrics.items()}

    def answer(self, text: tuple[str, ...], logits: Tensor) -> Answer:
        return Answer(text, logits.sigmoid().item() * self.most)


def _answers(task: Task) -> tuple[list[Labelled], None]:
    """Questions of short conversations, each with its own answer and nine others, taken from all over the list."""
    own = list(dict(assets.conversations()).items())
    apart = len(own) // CANDIDATES
    found = []
    for i, (question, right) in enumerate(own):
        others = (own[(i + step * apart + 1) % len(own)][1] for step in range(1, CANDIDATES))
        found += [Labelled((question, right), 1.0)]
        found += [Labelled((question, other), 0.0) for other in dict.fromkeys(others) if other != right]
    return found, None


ANSWERS = know(Ranking(name="answers", fetch=_answers))
