"""A run or a model judged again, by any judgements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from subspace_tuning.errors import BadInput
from subspace_tuning.judge import Judgement, OfRows, Verdict
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.judging import own_rows
from subspace_tuning.run.precision import precision
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.pretrained import load_model, load_tokenizer
from subspace_tuning.run.recipe import Recipe, make
from subspace_tuning.tasks import task_of
from subspace_tuning.tasks.language import LanguageTask

Progress = Callable[[str, int, int], None]  # which judgement, done, of so many


class Judged:
    """A language model ready to be judged: a run's (with its recipe), or that of a folder or of the hub."""

    def __init__(self, target: str):
        self.recipe: Recipe | None = None
        self.bf16 = False
        if (Path(target) / "config.yaml").is_file():
            self.recipe = RunFolder(target).recipe()
            _check(self.recipe)
            predictor = Predictor(target)
            self.model, self.tokenizer, self.bf16 = predictor.model, predictor.tokenizer, self.recipe.in_bf16
        else:
            self.model = load_model(target, task_of("sft")).model.eval()
            self.tokenizer = load_tokenizer(target)
            self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(
        self, judgements: Mapping[str, Judgement], progress: Progress = lambda label, done, of: None
    ) -> dict[str, Verdict]:
        """Each verdict by its label. A judgement without data is taken on the run's own rows."""
        found = {}
        for label, judgement in judgements.items():
            told = lambda done, of, label=label: progress(label, done, of)  # noqa: E731
            more: dict[str, Any] = {"records": self._rows(judgement)} if isinstance(judgement, OfRows) else {}
            with precision(self.model, self.bf16):
                found[label] = judgement(self.model, self.tokenizer, progress=told, **more)
        return found

    def _rows(self, judgement: OfRows) -> Any:
        if judgement.data is None and self.recipe is not None:
            return judgement.records(own_rows(self.recipe))
        return judgement.records()


def named_by(recipe: Mapping[str, Any] | None, target: str) -> list[Any]:
    """The judgements of a recipe, else of the run itself."""
    if recipe is None:
        if not (Path(target) / "config.yaml").is_file():
            raise BadInput(f"say by what {target} is to be judged: --judge, --lm-eval or --recipe")
        said = RunFolder(target).recipe()
        _check(said)
    else:
        said = make(dict(recipe)).resolved()
    return [*(said.evaluate or []), *said.retention]


def _check(recipe: Recipe) -> None:
    if not isinstance(recipe.task_object(), LanguageTask):
        raise BadInput(f"task: {recipe.task} is no language model's, and judgements are of language models")
