"""What a trained run says to new rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import SUFFIXES
from subspace_tuning.files.text import lines_of, read_text
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.pretrained import attach, load_model, load_processor
from subspace_tuning.run.recipe import NONE
from subspace_tuning.tasks import Answer, Task
from subspace_tuning.tasks.task import Row


class Predictor:
    """A run's model, ready to answer."""

    def __init__(self, run: Path | str):
        self.folder = folder = RunFolder(run)
        self.recipe = folder.recipe()
        self.task: Task = self.recipe.task_object()
        weights = None if self.recipe.method == NONE else folder.weights()
        whole = weights is None or weights.name == "model"
        where = str(weights) if weights is not None and whole else self.recipe.model
        model: Any = load_model(where, self.task, dtype=self.recipe.dtype).model
        self.tokenizer = load_processor(self.recipe.model, self.task.processor)
        self.task.join(model, self.tokenizer)
        self.model = model if weights is None or whole else attach(model, weights)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def __call__(self, texts: Sequence[tuple[str, ...] | str]) -> list[Answer]:
        """What the model says to each text (or pair), in their order; to one without words nothing."""
        rows = [(text,) if isinstance(text, str) else text for text in texts]
        lines = ["\t".join(row) if any(part.strip() for part in row) else "" for row in rows]
        return self.answers(self.task.questions(lines, [f"text {i}" for i in range(1, len(rows) + 1)]))

    def say_at_most(self, tokens: int) -> None:
        """Set the length of answers. Raises BadInput for a task that writes none."""
        if "max_new_tokens" not in self.task.keys():  # noqa: SIM118  a method of ours
            raise BadInput(f"task: {self.task.name} writes no text; leave out --max-new-tokens")
        changed: dict[str, Any] = {"max_new_tokens": tokens}
        self.task = replace(self.task, **changed)

    def answers(self, rows: Sequence[Row | None]) -> list[Answer]:
        """An answer for each row; None is a row without words."""
        asked = [i for i, row in enumerate(rows) if row is not None]
        found = self.task.answers(self.model, self.tokenizer, [rows[i] for i in asked], self.recipe.max_length)
        by_row = dict(zip(asked, found, strict=True))
        return [by_row.get(i, Answer(("",), None)) for i in range(len(rows))]


def rows_of(task: Task, words: Sequence[str]) -> list[Row | None]:
    """Rows from the command line: each word one, or one file with a row a line.

    A blank line is a row without words, so that answers stand beside their lines.
    """
    lines, places = list(words), [f"text {number}" for number in range(1, len(words) + 1)]
    is_row = Path(words[0]).suffix.lower() in task.endings if len(words) == 1 else False
    if len(words) == 1 and os.path.isfile(words[0]) and not is_row:
        lines = lines_of(read_text(Path(words[0])))
        places = [f"{words[0]}, line {number}" for number in range(1, len(lines) + 1)]
    elif len(words) == 1 and _looks_like_a_file(words[0]):
        raise BadInput(f"there is no file {words[0]}; give texts, or a file with one text a line")
    if not any(line.strip() for line in lines):
        raise BadInput(f"there is no text in {words[0] if words else 'what was given'}; give one or more")
    return task.questions(lines, places)


def _looks_like_a_file(word: str) -> bool:
    return Path(word).suffix in (".txt", *SUFFIXES) and not any(c.isspace() for c in word)
