"""A text in, a text out: translation, summaries, by models with an encoder and a decoder (T5, BART)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from subspace_tuning.files.table import Table
from subspace_tuning.judge.written import METRICS
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import ABOUT, Collate, Inputs, Metric, seen
from subspace_tuning.tasks.writing import Writing

LENGTH = 512  # tokens of a source


class Pair(NamedTuple):
    """A text, and the one that is to be written; None where it is asked for."""

    source: str
    target: str | None


def _metric(name: str) -> Metric:
    def measure(written: Sequence[str], wanted: Sequence[str]) -> float:
        return METRICS[name](written, wanted).value

    measure.__doc__ = METRICS[name].__doc__
    return measure


@register("seq2seq")
@dataclass(frozen=True, kw_only=True)
class Seq2Seq(Writing):
    """prefix: what stands before every source, such as T5's ``summarize: ``."""

    row = "a column of texts, and a column of those to be written"
    head = "AutoModelForSeq2SeqLM"
    task_type = "SEQ_2_SEQ_LM"
    pipeline = "text2text-generation"
    metrics: ClassVar[Mapping[str, Metric]] = {
        name: _metric(name) for name in ("rougeL", "rouge1", "rouge2", "chrf", "exact_match")
    }

    source: str = "source"
    target: str = "target"
    prefix: str = ""

    def rows(self, table: Table) -> list[Pair]:
        columns = [texts.column_of(table, column) for column in (self.source, self.target)]
        return [Pair(*row) for row in zip(*columns, strict=True)]

    def encode(self, rows: Sequence[Pair], processor: Any, max_length: int | None) -> list[Inputs]:
        if not rows:
            return []
        length = max_length or min(LENGTH, processor.model_max_length)
        asked = [self.prefix + row.source for row in rows]
        sources = processor(asked, truncation=True, max_length=length, **texts.AS_TEXT)
        found = [
            {"input_ids": ids, "attention_mask": mask}
            for ids, mask in zip(sources["input_ids"], sources["attention_mask"], strict=True)
        ]
        if rows[0].target is None:
            return found
        targets = [row.target for row in rows]
        written = processor(text_target=targets, truncation=True, max_length=self.max_new_tokens, **texts.AS_TEXT)
        return [
            {**inputs, "labels": ids, ABOUT: target}
            for inputs, ids, target in zip(found, written["input_ids"], targets, strict=True)
        ]

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        texts.check(model, processor, inputs)
        super().check(model, processor, inputs)

    def collator(self, processor: Any) -> Collate:
        from transformers import DataCollatorForSeq2Seq

        return seen(DataCollatorForSeq2Seq(processor))

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Pair | None]:
        return [Pair(line, None) if line.strip() else None for line in lines]

    def shown(self, row: Pair) -> str:
        return row.source
