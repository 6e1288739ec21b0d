"""What a trained run says about new texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DataCollatorWithPadding

from subspace_tuning.errors import BadInput
from subspace_tuning.files.text import lines_of, read_text
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.pretrained import attach, load_model, load_tokenizer
from subspace_tuning.tasks import Task
from subspace_tuning.tasks.table import SUFFIXES
from subspace_tuning.tasks.texts import check, max_length, positions, tokens_of


class Prediction(NamedTuple):
    """A text (or pair), its label and how sure the model is; a regression has its number as ``score`` and no label.

    A text without words has neither.
    """

    text: tuple[str, ...]
    label: str | None
    score: float | None


class Predictor:
    """A run's model, ready to judge texts."""

    def __init__(self, run: Path | str):
        self.folder = folder = RunFolder(run)
        self.recipe = folder.recipe()
        self.task: Task = self.recipe.task_object()
        weights = folder.weights()
        whole = weights.name == "model"
        model: Any = load_model(str(weights) if whole else self.recipe.model, self.task).model
        self.tokenizer = load_tokenizer(self.recipe.model)
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = model if whole else attach(model, weights)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def __call__(self, texts: Sequence[tuple[str, ...]], batch_size: int = 32) -> list[Prediction]:
        """What the model says to each text, in their order; to one without words nothing."""
        found = {i: Prediction(text, None, None) for i, text in enumerate(texts)}
        told = [i for i, text in enumerate(texts) if any(part.strip() for part in text)]
        for first in range(0, len(told), batch_size):
            batch = told[first : first + batch_size]
            logits = self._logits([texts[i] for i in batch])
            found |= {i: self._told(texts[i], row) for i, row in zip(batch, logits, strict=True)}
        return [found[i] for i in range(len(texts))]

    @torch.inference_mode()
    def _logits(self, texts: Sequence[tuple[str, ...]]) -> Tensor:
        length = max_length(self.recipe.max_length, self.tokenizer, len(self.task.columns))
        rows = tokens_of(texts, self.tokenizer, min(length, positions(self.model) or length))
        check(self.model, self.tokenizer, rows)
        batch = DataCollatorWithPadding(self.tokenizer)(rows)
        told = self.model(**{key: value.to(self.model.device) for key, value in batch.items()}).logits.float().cpu()
        if not told.isfinite().all():
            raise BadInput(f"the model answers with NaN or infinite numbers; what is in {self.folder.path} is broken")
        return told

    def _told(self, text: tuple[str, ...], logits: Tensor) -> Prediction:
        if self.task.is_regression:
            return Prediction(text, None, logits.item())
        sure = logits.softmax(-1)
        best = int(sure.argmax())
        return Prediction(text, self.task.labels[best], sure[best].item())


def texts_of(task: Task, words: Sequence[str]) -> list[tuple[str, ...]]:
    """Texts from the command line: each word a text, or one file with a text a line; a tab parts the two of a pair.

    A blank line is a text without words, so that answers stand beside their lines.
    """
    lines, places = list(words), [f"text {number}" for number in range(1, len(words) + 1)]
    if len(words) == 1 and os.path.isfile(words[0]):
        lines = lines_of(read_text(Path(words[0])))
        places = [f"{words[0]}, line {number}" for number in range(1, len(lines) + 1)]
    elif len(words) == 1 and _looks_like_a_file(words[0]):
        raise BadInput(f"there is no file {words[0]}; give texts, or a file with one text a line")
    if not any(line.strip() for line in lines):
        raise BadInput(f"there is no text in {words[0] if words else 'what was given'}; give one or more")
    return [_parts(task, line, place) for line, place in zip(lines, places, strict=True)]


def _parts(task: Task, line: str, place: str) -> tuple[str, ...]:
    size = len(task.columns)
    if not line.strip():
        return ("",) * size
    parts = tuple(line.split("\t")) if size > 1 else (line,)
    if len(parts) != size:
        raise BadInput(f"{place} has {len(parts)} part(s); {task.name} wants {' TAB '.join(task.columns)}")
    return parts


def _looks_like_a_file(word: str) -> bool:
    return Path(word).suffix in (".txt", *SUFFIXES) and not any(c.isspace() for c in word)
