"""Which of several classes a sound belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat

from subspace_tuning.files import sounds, table
from subspace_tuning.files.attached import ARRAYS
from subspace_tuning.tasks.classes import Classes
from subspace_tuning.tasks.filed import FiledClasses
from subspace_tuning.tasks.registry import register
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
    metrics: ClassVar = Classes.metrics
    what, file, endings = "a sound", "audio", sounds.SUFFIXES

    audio: str = "audio"
    max_seconds: PositiveFloat = 30.0

    def collator(self, processor: Any) -> Collate:
        rate = processor.sampling_rate
        longest = int(self.max_seconds * rate)
        is_waves = "input_values" in processor.model_input_names  # others make spectra of one length

        def collate(rows: list[Inputs]) -> Any:
            heard = [sounds.samples(row["file"], rate)[:longest] for row in rows]
            batch = dict(
                processor(heard, sampling_rate=rate, padding=True if is_waves else "max_length", return_tensors="pt")
            )
            labelled = [row["labels"] for row in rows if "labels" in row]
            return {**batch, "labels": torch.tensor(labelled)} if labelled else batch

        return collate
