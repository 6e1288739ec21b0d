"""What is said in a sound, by models with an encoder and a decoder (Whisper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from subspace_tuning.errors import BadInput
from subspace_tuning.files import sounds
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.spoken import Speech, batch_of
from subspace_tuning.tasks.task import Collate, Inputs
from subspace_tuning.tasks.writing import Writing


@register("speech_to_text")
@dataclass(frozen=True, kw_only=True)
class SpeechToText(Speech, Writing):
    """language: of what is written, for Whispers of many languages; in the language that is spoken."""

    head = "AutoModelForSpeechSeq2Seq"

    language: str = ""

    def join(self, model: Any, processor: Any) -> None:
        super().join(model, processor)
        if self.language:
            processor.tokenizer.set_prefix_tokens(language=self.language, task="transcribe")
            model.generation_config.update(language=self.language, task="transcribe")

    def labels_in(self, text: str, processor: Any) -> list[int]:
        """Without the first token, which the model sets before labels itself."""
        tokenizer = processor.tokenizer
        if self.language:
            tokenizer.set_prefix_tokens(language=self.language, task="transcribe")
        return tokenizer(text, **texts.AS_TEXT)["input_ids"][1:]

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        super().check(model, processor, inputs)
        room = model.config.max_target_positions
        longest = max((len(row["labels"]) for row in inputs if "labels" in row), default=0)
        if longest > room:
            raise BadInput(f"a text has {longest} tokens, more than the {room} that the model writes; part its sound")
        rate, most = processor.feature_extractor.sampling_rate, processor.feature_extractor.n_samples
        for row in inputs:
            if (size := sounds.length(row["sound"], rate)) > most:
                raise BadInput(f"a sound has {size / rate:.1f} seconds, and the model hears {most / rate:g}; part it")

    def collator(self, processor: Any) -> Collate:
        return partial(_collate, processor)


def _collate(processor: Any, rows: list[Inputs]) -> Any:
    return batch_of(rows, processor)
