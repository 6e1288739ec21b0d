"""Pairs of texts, each of which becomes a vector: what similarity and retrieval share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.optional import optional
from subspace_tuning.tasks.task import Answer, Collate, Inputs, Metric, Task

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

BATCH = 32  # pairs at a time in prediction


class Pair(NamedTuple):
    """Two texts, and how alike they are where that is known."""

    texts: tuple[str, ...]
    label: float | None


@dataclass(frozen=True, kw_only=True)
class Pairs(Task):
    """columns: the two of texts. pooling: how the vectors of a text's tokens become one."""

    head = "AutoModel"
    has_head = False
    task_type = "FEATURE_EXTRACTION"
    pipeline = "feature-extraction"
    metrics: ClassVar[Mapping[str, Metric]] = {}
    loss: ClassVar[str]  # of LOSSES in pairs_trainer.py

    columns: tuple[str, ...] = ("sentence1", "sentence2")
    pooling: Literal["mean", "cls", "max", "lasttoken"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({*self.columns}) != 2 or len(self.columns) != 2:
            raise BadInput(f"{self.kind} is of two columns of texts, got columns={list(self.columns)}")

    @abstractmethod
    def labels_in(self, table: Table) -> Sequence[float | None]:
        """The checked label of each row."""

    @abstractmethod
    def numbered(self, rows: Sequence[Pair]) -> Sequence[Any]:
        """What the loss and the metrics are told of each row."""

    def rows(self, table: Table) -> list[Pair]:
        columns = [texts.column_of(table, column) for column in self.columns]
        labels = self.labels_in(table)
        if not len(table):
            raise BadInput(f"{table.name} is empty: expected at least one row")
        return [Pair(row, label) for row, label in zip(zip(*columns, strict=True), labels, strict=True)]

    def encode(self, rows: Sequence[Pair], processor: Any, max_length: int | None) -> list[Inputs]:
        """The tokens of the first text as input_ids, those of the second as ``second``."""
        length = texts.max_length(max_length, processor)
        first, second = (texts.tokens_of([(row.texts[i],) for row in rows], processor, length) for i in (0, 1))
        return [
            {**one, "second": other, "labels": label}
            for one, other, label in zip(first, second, self.numbered(rows), strict=True)
        ]

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        texts.check(model, processor, [side for row in inputs for side in (row, row["second"])])

    def trainer(self) -> type[Trainer]:
        return optional(
            "subspace_tuning.tasks.pairs_trainer", "training on pairs needs sentence-transformers", "embeddings"
        ).PairsTrainer

    def arguments(self) -> tuple[type[TrainingArguments], dict[str, Any]]:
        kind, values = super().arguments()
        return kind, {**values, "remove_unused_columns": False}

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        return {**super().parts(processor, train, judged), "pooling": self.pooling, "loss": self.loss}

    def collator(self, processor: Any) -> Collate:
        def collate(rows: list[Inputs]) -> Any:
            first = [{k: v for k, v in row.items() if k not in ("second", "labels")} for row in rows]
            sides = {"first": first, "second": [row["second"] for row in rows]}
            batch: dict[str, Any] = {
                name: dict(processor.pad(side, return_tensors="pt")) for name, side in sides.items()
            }
            return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}

        return collate

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Pair | None]:
        """Two texts a line, parted by a tab."""
        rows = [tuple(line.split("\t")) if line.strip() else () for line in lines]
        for row, place in zip(rows, places, strict=True):
            if len(row) not in (0, 2):
                raise BadInput(f"{place} has {len(row)} part(s); {self.name} wants {' TAB '.join(self.columns)}")
        return [Pair(row, None) if row else None for row in rows]

    @torch.inference_mode()
    def answers(self, model: Any, processor: Any, rows: Sequence[Pair], max_length: int | None) -> list[Answer]:
        """The cosine of the two vectors of each row."""
        vectors = optional(
            "subspace_tuning.tasks.pairs_trainer", "pairs need sentence-transformers", "embeddings"
        ).vectors
        length = texts.max_length(max_length, processor)
        asked = [Pair(row.texts, 0.0) for row in rows]
        inputs = self.encode(asked, processor, min(length, texts.positions(model) or length))
        self.check(model, processor, inputs)
        collate = self.collator(processor)
        found: list[Answer] = []
        for first in range(0, len(rows), BATCH):
            batch = collate([inputs[i] for i in range(first, min(first + BATCH, len(rows)))])
            sides = [{k: v.to(model.device) for k, v in batch[name].items()} for name in ("first", "second")]
            a, b = (vectors(model, side, self.pooling).float().cpu() for side in sides)
            found += [
                Answer(row.texts, cosine)
                for row, cosine in zip(rows[first:], F.cosine_similarity(a, b).tolist(), strict=False)
            ]
        return found


def cosines(a: NDArray, b: NDArray) -> NDArray:
    """Of the vectors a (rows, dim) and b (rows, dim): (rows,)."""
    return F.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b)).numpy()
