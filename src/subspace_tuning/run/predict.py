"""What a trained run says about new texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.pretrained import attach, load_model, load_tokenizer
from subspace_tuning.tasks import Task


class Prediction(NamedTuple):
    """A text (or pair), its label and how sure the model is; a regression has its number as ``score`` and no label."""

    text: tuple[str, ...]
    label: str | None
    score: float


class Predictor:
    """A run's model, ready to judge texts."""

    def __init__(self, run: Path | str):
        folder = RunFolder(run)
        self.recipe = folder.recipe()
        self.task: Task = self.recipe.task_object()
        weights = folder.weights()
        whole = weights.name == "model"
        model: Any = load_model(str(weights) if whole else self.recipe.model, self.task).model
        self.tokenizer = load_tokenizer(self.recipe.model)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = model if whole else attach(model, weights)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def __call__(self, texts: Sequence[tuple[str, ...]], batch_size: int = 32) -> list[Prediction]:
        found: list[Prediction] = []
        for first in range(0, len(texts), batch_size):
            batch = texts[first : first + batch_size]
            found += [self._told(text, row) for text, row in zip(batch, self._logits(batch), strict=True)]
        return found

    @torch.inference_mode()
    def _logits(self, texts: Sequence[tuple[str, ...]]) -> Tensor:
        columns = [list(column) for column in zip(*texts, strict=True)]
        tokens = self.tokenizer(
            *columns, truncation=True, max_length=self.recipe.max_length, padding=True, return_tensors="pt"
        )
        return self.model(**tokens.to(self.model.device)).logits.float().cpu()

    def _told(self, text: tuple[str, ...], logits: Tensor) -> Prediction:
        if self.task.is_regression:
            return Prediction(text, None, logits.item())
        sure = logits.softmax(-1)
        best = int(sure.argmax())
        return Prediction(text, self.task.labels[best], sure[best].item())


def texts_of(task: Task, words: Sequence[str]) -> list[tuple[str, ...]]:
    """Texts from the command line: each word a text, or one file with a text a line; a tab parts the two of a pair."""
    lines = list(words)
    if len(words) == 1 and Path(words[0]).is_file():
        try:
            lines = [line for line in Path(words[0]).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"cannot read {words[0]}: expected a file with one text a line in UTF-8 ({error})"
            ) from error
    if not lines:
        raise BadInput(f"there is no text in {words[0] if words else 'what was given'}; give one or more")
    is_pair = len(task.columns) == 2
    texts = [tuple(line.split("\t")) if is_pair else (line,) for line in lines]
    for number, text in enumerate(texts, 1):
        if len(text) != len(task.columns):
            raise BadInput(f"text {number} has {len(text)} part(s); {task.name} wants {' TAB '.join(task.columns)}")
    return texts
