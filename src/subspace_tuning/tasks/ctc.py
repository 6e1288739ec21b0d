"""What is said in a sound, by models that put out a letter or none a frame (wav2vec2, HuBERT): CTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.files import sounds
from subspace_tuning.files.attached import named
from subspace_tuning.tasks.forward import outputs
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.spoken import Speech, Spoken, batch_of, frames
from subspace_tuning.tasks.task import ABOUT, Answer, Collate, Inputs


@register("ctc")
@dataclass(frozen=True, kw_only=True)
class CTC(Speech):
    """The tokenizer of the model's folder says which letters there are."""

    head = "AutoModelForCTC"

    def config(self) -> dict[str, Any]:
        return {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        for measure in self.metrics.values():
            measure(["a"], ["a"])  # says which package is missing before anything is trained
        unknown, rate = processor.tokenizer.unk_token_id, processor.feature_extractor.sampling_rate
        for row in inputs:
            letters = row.get("labels", ())
            if unknown in letters:
                raise BadInput(
                    f"the tokenizer does not know every letter of {row[ABOUT][:60]!r}; write texts as it does (often "
                    "in capitals, without punctuation), or give the model a tokenizer with these letters"
                )
            size = sounds.length(row["sound"], rate)
            room = frames(model, size)
            needs = max(1, len(letters) + sum(a == b for a, b in pairwise(letters)))  # a blank between equal ones
            if room < needs:
                raise BadInput(
                    f"a sound of {size / rate:.3g} seconds, {named(row['sound'])}, has {room} frames, and its text "
                    f"takes {needs}, one a letter; leave the row out, or mend its text"
                )

    def averaged(self, batch: Mapping[str, Any]) -> int:
        """Rows, each of which has the mean over its letters."""
        return len(batch["labels"])

    def collator(self, processor: Any) -> Collate:
        return partial(_collate, processor)

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        def scored(found: Any) -> dict[str, float]:
            blank = processor.tokenizer.pad_token_id
            said = processor.batch_decode(np.where(found.predictions < 0, blank, found.predictions))
            return self.scores(said, None, judged)

        return {
            **super().parts(processor, train, judged),
            "compute_metrics": scored,
            "preprocess_logits_for_metrics": _likeliest,
        }

    def scores(self, predictions: Any, labels: Any, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        """Of texts that are written."""
        return {name: measure(predictions, [row[ABOUT] for row in judged]) for name, measure in self.metrics.items()}

    def answers(self, model: Any, processor: Any, rows: Sequence[Spoken], max_length: int | None) -> list[Answer]:
        said = outputs(model, self.collator(processor), self.encode(rows, processor, None))
        found = [processor.decode(logits.argmax(-1)) for (logits,) in said]
        return [Answer((self.shown(row),), text) for row, text in zip(rows, found, strict=True)]


def _collate(processor: Any, rows: list[Inputs]) -> Any:
    return batch_of(rows, processor, padding=True)


def _likeliest(logits: Any, labels: Any) -> Tensor:
    """The letter of each frame: (rows, frames, letters) -> (rows, frames)."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)
