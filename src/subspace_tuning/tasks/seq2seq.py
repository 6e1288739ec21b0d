"""A text in, a text out: translation, summaries, by models with an encoder and a decoder (T5, BART)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table
from subspace_tuning.judge.written import METRICS
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import ABOUT, Answer, Collate, Inputs, Metric, Task, seen

BATCH = 16  # answers at a time
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
class Seq2Seq(Task):
    """prefix: what stands before every source, such as T5's ``summarize: ``. num_beams: of the search for the best one.

    What is written is compared with the whole target, also where max_new_tokens has cut that in training.
    """

    row = "a column of texts, and a column of those to be written"
    head = "AutoModelForSeq2SeqLM"
    task_type = "SEQ_2_SEQ_LM"
    pipeline = "text2text-generation"
    metrics: ClassVar[Mapping[str, Metric]] = {
        name: _metric(name) for name in ("rougeL", "rouge1", "rouge2", "chrf", "exact_match")
    }
    usual: ClassVar[Mapping[str, Any]] = {"batch_size": 16, "epochs": 3.0}

    source: str = "source"
    target: str = "target"
    prefix: str = ""
    max_new_tokens: PositiveInt = 128
    num_beams: PositiveInt = 1

    def rows(self, table: Table) -> list[Pair]:
        columns = [texts.column_of(table, column) for column in (self.source, self.target)]
        return [Pair(*row) for row in zip(*columns, strict=True)]

    def encode(self, rows: Sequence[Pair], processor: Any, max_length: int | None) -> list[Inputs]:
        if not rows:
            return []
        length = max_length or min(LENGTH, processor.model_max_length)
        sources = processor([self.prefix + row.source for row in rows], truncation=True, max_length=length)
        found = [
            {"input_ids": ids, "attention_mask": mask}
            for ids, mask in zip(sources["input_ids"], sources["attention_mask"], strict=True)
        ]
        if rows[0].target is None:
            return found
        targets = [row.target for row in rows]
        labels = processor(text_target=targets, truncation=True, max_length=self.max_new_tokens)["input_ids"]
        return [
            {**inputs, "labels": ids, ABOUT: target} for inputs, ids, target in zip(found, labels, targets, strict=True)
        ]

    def join(self, model: Any, processor: Any) -> None:
        if not model.config.is_encoder_decoder:
            raise BadInput(
                f"seq2seq takes a model with an encoder and a decoder, and {model.config.model_type} has one"
            )
        model.generation_config.update(max_length=None, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        texts.check(model, processor, inputs)
        for measure in self.metrics.values():
            measure(["a"], ["a"])  # says which package is missing before anything is trained

    # training

    def trainer(self) -> Any:
        from transformers import Seq2SeqTrainer

        return Seq2SeqTrainer

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        from transformers import Seq2SeqTrainingArguments

        return Seq2SeqTrainingArguments, {
            "label_names": ["labels"],
            "predict_with_generate": True,
        }

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        def scored(found: Any) -> dict[str, float]:
            ids = np.where(found.predictions < 0, processor.pad_token_id, found.predictions)
            return self.scores(processor.batch_decode(ids, skip_special_tokens=True), None, judged)

        return {**super().parts(processor, train, judged), "compute_metrics": scored}

    def collator(self, processor: Any) -> Collate:
        from transformers import DataCollatorForSeq2Seq

        return seen(DataCollatorForSeq2Seq(processor))

    def scores(self, predictions: Any, labels: Any, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        """Of texts that are written."""
        written = [text.strip() for text in predictions]
        return {name: measure(written, [row[ABOUT] for row in judged]) for name, measure in self.metrics.items()}

    # prediction

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Pair | None]:
        return [Pair(line, None) if line.strip() else None for line in lines]

    def answers(self, model: Any, processor: Any, rows: Sequence[Pair], max_length: int | None) -> list[Answer]:
        inputs, collate = self.encode(rows, processor, max_length), self.collator(processor)
        texts.check(model, processor, inputs)
        found: list[Answer] = []
        for first in range(0, len(rows), BATCH):
            batch = collate(inputs[first : first + BATCH])
            with torch.inference_mode():
                ids = model.generate(
                    **{key: batch[key].to(model.device) for key in inputs[0]},
                    max_new_tokens=self.max_new_tokens,
                    num_beams=self.num_beams,
                )
            said = processor.batch_decode(ids, skip_special_tokens=True)
            found += [Answer((row.source,), text.strip()) for row, text in zip(rows[first:], said, strict=False)]
        return found
