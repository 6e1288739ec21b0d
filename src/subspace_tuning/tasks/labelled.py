"""Texts with a label, or pairs of them: what classification and regression share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.forward import outputs
from subspace_tuning.tasks.mapped import mapped, rows_of
from subspace_tuning.tasks.task import Answer, Inputs, Metric, Task


class Labelled(NamedTuple):
    """One or two texts and their label (a number, or several), None where it is asked for."""

    texts: tuple[str, ...]
    label: Any


@dataclass(frozen=True, kw_only=True)
class LabelledTexts(Task):
    """A row is one or two columns of text, and a column with its label."""

    head = "AutoModelForSequenceClassification"
    task_type = "SEQ_CLS"
    pipeline = "text-classification"
    metrics: ClassVar[Mapping[str, Metric]] = {}

    columns: tuple[str, ...] = ("text",)
    label: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.columns) not in (1, 2) or len({*self.columns, self.label}) <= len(self.columns):
            raise BadInput(
                f"a task has one or two columns of text and another one of labels, got columns={list(self.columns)} "
                f"and label={self.label!r}"
            )

    @abstractmethod
    def labels_in(self, table: Table) -> Sequence[Any]:
        """The checked label of each row."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over rows, from logits (rows, classes) and labels (rows): what the head's model computes itself."""

    @abstractmethod
    def answer(self, text: tuple[str, ...], logits: Tensor) -> Answer:
        """What logits (classes,) say."""

    def rows(self, table: Table) -> Sequence[Labelled]:
        columns = [texts.column_of(table, column) for column in self.columns]
        labels = self.labels_in(table)
        if not len(table):
            raise BadInput(f"{table.name} is empty: expected at least one row")
        return rows_of(_labelled, [*columns, labels])

    def labels_of(self, row: Labelled) -> Sequence[str | float]:
        return (row.label,)

    def encode(self, rows: Sequence[Labelled], processor: Any, max_length: int | None) -> Sequence[Inputs]:
        length = texts.max_length(max_length, processor, len(self.columns))
        return mapped(rows, partial(self._encoded, processor, length))

    def _encoded(self, processor: Any, length: int, rows: Sequence[Labelled]) -> list[Inputs]:
        tokens = texts.tokens_of([row.texts for row in rows], processor, length)
        return [{**found, **self.inputs_of(row)} for found, row in zip(tokens, rows, strict=True)]

    def inputs_of(self, row: Labelled) -> Inputs:
        """What stands beside the tokens of a row."""
        return {} if row.label is None else {"labels": row.label}

    def join(self, model: Any, processor: Any) -> None:
        model.config.pad_token_id = processor.pad_token_id  # GPTs judge by the last token that is none

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        texts.check(model, processor, inputs)

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Labelled | None]:
        """A text a line; a tab parts the two of a pair."""
        return [self._question(line, place) for line, place in zip(lines, places, strict=True)]

    def _question(self, line: str, place: str) -> Labelled | None:
        if not line.strip():
            return None
        size = len(self.columns)
        parts = tuple(line.split("\t")) if size > 1 else (line,)
        if len(parts) != size:
            raise BadInput(f"{place} has {len(parts)} part(s); {self.name} wants {' TAB '.join(self.columns)}")
        return Labelled(parts, None)

    def answers(self, model: Any, processor: Any, rows: Sequence[Labelled], max_length: int | None) -> list[Answer]:
        length = texts.max_length(max_length, processor, len(self.columns))
        inputs = self.encode(rows, processor, min(length, texts.positions(model) or length))
        self.check(model, processor, inputs)
        said = outputs(model, self.collator(processor), inputs)
        return [self.answer(row.texts, logits) for row, (logits,) in zip(rows, said, strict=True)]


def _labelled(*values: Any) -> Labelled:
    *found, label = values
    return Labelled(tuple(found), label)
