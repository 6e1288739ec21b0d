"""Sounds and what is said in them: what speech to text (Whisper) and letters a frame (wav2vec2) share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from subspace_tuning.errors import BadInput
from subspace_tuning.files import sounds
from subspace_tuning.files.attached import attached
from subspace_tuning.files.table import Table
from subspace_tuning.rows.encode import IGNORED
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.optional import optional
from subspace_tuning.tasks.task import ABOUT, Inputs, Metric, Task

if TYPE_CHECKING:
    from transformers import TrainingArguments


class Spoken(NamedTuple):
    """A path, bytes or samples, and the text; None where it is asked for."""

    sound: Any
    text: str | None


def _right(rate: str, of: str) -> Metric:
    def measure(written: Sequence[str], wanted: Sequence[str]) -> float:
        jiwer = optional("jiwer", "counting the errors of words needs the package jiwer", "speech")
        return 1 - float(getattr(jiwer, rate)([*wanted], [*written]))

    measure.__doc__ = f"1 - the {of} error rate, of texts as they stand; below 0 where more is inserted than said."
    return measure


@dataclass(frozen=True, kw_only=True)
class Speech(Task):
    """audio, text: the columns of sounds, and of what is said in them."""

    row = "a sound (WAV: its path or bytes), and a text, what is said in it"
    endings = sounds.SUFFIXES
    processor = "AutoProcessor"
    task_type = None
    pipeline = "automatic-speech-recognition"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "one_minus_wer": _right("wer", "word"),
        "one_minus_cer": _right("cer", "letter"),
    }
    usual: ClassVar[Mapping[str, Any]] = {"batch_size": 16, "epochs": 3.0}

    audio: str = "audio"
    text: str = "text"

    def rows(self, table: Table) -> list[Spoken]:
        found, said = attached(table, self.audio, "a sound", sounds.check), texts.column_of(table, self.text)
        for row, text in enumerate(said):
            if not text.strip():
                raise BadInput(f"{table.place(row)}: nothing is said; error rates are of texts with a word")
        return [Spoken(*row) for row in zip(found, said, strict=True)]

    def encode(self, rows: Sequence[Spoken], processor: Any, max_length: int | None) -> list[Inputs]:
        """Sounds as they are: they are read when a batch is made of them."""
        return [
            {"sound": row.sound}
            | ({} if row.text is None else {"labels": self.labels_in(row.text, processor), ABOUT: row.text})
            for row in rows
        ]

    def labels_in(self, text: str, processor: Any) -> list[int]:
        """What the model is to put out for a text."""
        return processor.tokenizer(text, **texts.AS_TEXT)["input_ids"]

    def arguments(self) -> tuple[type[TrainingArguments], dict[str, Any]]:
        kind, values = super().arguments()
        return kind, {**values, "remove_unused_columns": False}

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Spoken | None]:
        """A path a line."""
        return [Spoken(Path(line.strip()), None) if line.strip() else None for line in lines]

    def shown(self, row: Spoken) -> str:
        return str(row.sound)


def frames(model: Any, size: int) -> int:
    """How many outputs a model that reads waves has for so many samples; 1 for one that does not tell."""
    tell = getattr(model, "_get_feat_extract_output_lengths", None)
    return 1 if tell is None else int(tell(torch.tensor(size)))


def batch_of(rows: Sequence[Inputs], processor: Any, **how: Any) -> dict[str, Tensor]:
    """What the feature extractor makes of sounds, and their labels padded by what counts for nothing."""
    rate = processor.feature_extractor.sampling_rate
    heard = [sounds.samples(row["sound"], rate) for row in rows]
    batch = dict(processor.feature_extractor(heard, sampling_rate=rate, return_tensors="pt", **how))
    labels = [torch.tensor(row["labels"]) for row in rows if "labels" in row]
    return {**batch, "labels": pad_sequence(labels, True, IGNORED)} if labels else batch
