"""Which of several classes a sound belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat

from subspace_tuning.errors import BadInput
from subspace_tuning.files import sounds, table
from subspace_tuning.files.attached import ARRAYS, named
from subspace_tuning.tasks.classes import Classes
from subspace_tuning.tasks.filed import FiledClasses
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.spoken import frames
from subspace_tuning.tasks.task import Collate, Inputs


@register("audio_classification")
@dataclass(frozen=True, kw_only=True)
class AudioClassification(FiledClasses):
    """audio: the column of sounds. max_seconds: of each sound, its first ones are heard."""

    row = (
        "a sound (WAV: in a folder of its class; a path or bytes in a table; samples in .npz), and the name of its "
        "class"
    )
    suffixes = (*table.SUFFIXES, ARRAYS, *sounds.SUFFIXES)
    head = "AutoModelForAudioClassification"
    processor = "AutoFeatureExtractor"
    task_type = None
    pipeline = "audio-classification"
    metrics: ClassVar[Any] = Classes.metrics
    what, file, endings = "a sound", "audio", sounds.SUFFIXES

    audio: str = "audio"
    max_seconds: PositiveFloat = 30.0

    @staticmethod
    def look(held: Any) -> None:
        sounds.check(held)

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        rate = processor.sampling_rate
        for row in inputs:
            size = min(sounds.length(row["file"], rate), int(self.max_seconds * rate))
            if not size or (self._reads_waves(processor) and frames(model, size) < 1):
                raise BadInput(
                    f"{size} samples of the sound {named(row['file'])} are heard, too few for the model; leave it out"
                )

    @staticmethod
    def _reads_waves(processor: Any) -> bool:
        """Others read spectra of one length."""
        return "input_values" in processor.model_input_names

    def collator(self, processor: Any) -> Collate:
        rate = processor.sampling_rate
        longest = int(self.max_seconds * rate)
        padding = True if self._reads_waves(processor) else "max_length"

        def collate(rows: list[Inputs]) -> Any:
            heard = [sounds.samples(row["file"], rate)[:longest] for row in rows]
            batch = dict(processor(heard, sampling_rate=rate, padding=padding, return_tensors="pt"))
            labelled = [row["labels"] for row in rows if "labels" in row]
            return {**batch, "labels": torch.tensor(labelled)} if labelled else batch

        return collate
