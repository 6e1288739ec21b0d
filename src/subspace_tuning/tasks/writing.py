"""Models with an encoder and a decoder, which write a text: what sequence to sequence and speech to text share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt

from subspace_tuning.errors import BadInput
from subspace_tuning.tasks.task import ABOUT, Answer, Inputs, Metric, Row, Task

BATCH = 16  # answers at a time


@dataclass(frozen=True, kw_only=True)
class Writing(Task):
    """max_new_tokens: of what is written. num_beams: of the search for the best one.

    Inputs keep under ``ABOUT`` the text that is to be written. What is written is compared with all of it, also where
    max_new_tokens has cut it in training.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {}
    usual: ClassVar[Mapping[str, Any]] = {"batch_size": 16, "epochs": 3.0}

    max_new_tokens: PositiveInt = 128
    num_beams: PositiveInt = 1

    @abstractmethod
    def shown(self, row: Row) -> str:
        """A row as a person would write it."""

    @staticmethod
    def writer(processor: Any) -> Any:
        """The tokenizer, of a processor that has one beside something else."""
        return getattr(processor, "tokenizer", processor)

    def join(self, model: Any, processor: Any) -> None:
        if not model.config.is_encoder_decoder:
            raise BadInput(
                f"{self.kind} takes a model with an encoder and a decoder, and {model.config.model_type} has one"
            )
        model.generation_config.update(max_length=None, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
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
        writer = self.writer(processor)

        def scored(found: Any) -> dict[str, float]:
            ids = np.where(found.predictions < 0, writer.pad_token_id, found.predictions)
            return self.scores(writer.batch_decode(ids, skip_special_tokens=True), None, judged)

        return {**super().parts(processor, train, judged), "compute_metrics": scored}

    def scores(self, predictions: Any, labels: Any, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        """Of texts that are written."""
        written = [text.strip() for text in predictions]
        return {name: measure(written, [row[ABOUT] for row in judged]) for name, measure in self.metrics.items()}

    # prediction

    def answers(self, model: Any, processor: Any, rows: Sequence[Row], max_length: int | None) -> list[Answer]:
        inputs, collate = self.encode(rows, processor, max_length), self.collator(processor)
        self.check(model, processor, inputs)
        found: list[Answer] = []
        for first in range(0, len(rows), BATCH):
            batch = collate([inputs[i] for i in range(first, min(first + BATCH, len(rows)))])
            with torch.inference_mode():
                ids = model.generate(
                    **{key: value.to(model.device) for key, value in batch.items() if key != "labels"},
                    max_new_tokens=self.max_new_tokens,
                    num_beams=self.num_beams,
                )
            said = self.writer(processor).batch_decode(ids, skip_special_tokens=True)
            found += [Answer((self.shown(row),), text.strip()) for row, text in zip(rows[first:], said, strict=False)]
        return found
