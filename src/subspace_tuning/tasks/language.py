"""Language models: what fine-tuning on texts and on preferences share. Rows are what ``rows/`` reads."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveInt

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table, read_table
from subspace_tuning.files.text import UTF8
from subspace_tuning.judge.generate import generate
from subspace_tuning.judge.ready import judged, limit_of
from subspace_tuning.rows import Encoding, Records
from subspace_tuning.rows import read as read_records
from subspace_tuning.rows.encode import tokens
from subspace_tuning.rows.forms import USER
from subspace_tuning.rows.records import JUDGED
from subspace_tuning.rows.spans import Kind, Span, written
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.optional import optional
from subspace_tuning.tasks.task import Answer, Inputs, Metric, Row, Task

if TYPE_CHECKING:
    from transformers import Trainer

LENGTH = 1024  # tokens of a row, at most, where nothing else is said
BATCH = 8  # answers at a time


@dataclass(frozen=True, kw_only=True)
class LanguageTask(Task):
    """subset: the configuration of a data set of the hub. chat: in prediction, put texts as a user's turn.

    max_new_tokens: of an answer in prediction. metric: which of the judgements' is the run's score.
    """

    head = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    pipeline = "text-generation"
    metrics: ClassVar[Mapping[str, Metric]] = {}
    usual: ClassVar[Mapping[str, Any]] = {"batch_size": 8, "epochs": 1.0}
    trained_by: ClassVar[str] = ""  # the class in tasks/trl_trainers.py

    validation: tuple[str, ...] = ("validation", *JUDGED)
    subset: str | None = None
    chat: bool = True
    max_new_tokens: PositiveInt = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.kind)

    @classmethod
    def keys(cls) -> list[str]:
        return [key for key in super().keys() if key != "validation"]  # noqa: SIM118  a method of ours

    # rows

    def read(self, path: Path, encoding: str = UTF8) -> list[Row]:
        return self.rows(read_table(path, encoding))

    def rows(self, table: Table) -> list[Row]:
        return self.checked(Records.of_table(table))

    def elsewhere(self, source: str) -> tuple[list[Row], list[Row] | None] | None:
        if Path(source).expanduser().exists():
            return None
        train = self.checked(read_records(source, "train", self.subset))
        try:
            return train, self.checked(read_records(source, self.validation, self.subset))
        except BadInput:  # no such split
            return train, None

    @abstractmethod
    def checked(self, records: Records) -> list[Row]:
        """The rows, each of the form that is trained on. Raises BadInput that names the first that is not."""

    # the model

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        limit = limit_of(model)
        longest = max((len(row["input_ids"]) for row in inputs), default=0)
        if limit is not None and longest > limit:
            raise BadInput(f"a row has {longest} tokens, and the model reads {limit}; set max_length: {limit} or less")
        texts.check(model, processor, inputs)

    # training

    def trainer(self) -> type[Trainer]:
        return getattr(_trl(), self.trained_by)

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        return {"processing_class": processor}

    # prediction

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Row | None]:
        return [line if line.strip() else None for line in lines]

    def prompt(self, line: str, processor: Any) -> str:
        """A text as the model is asked."""
        return written(((USER, line),), processor, opens=True) if self.chat else line

    def answers(self, model: Any, processor: Any, rows: Sequence[Row], max_length: int | None) -> list[Answer]:
        asked = [[Span(self.prompt(line, processor), Kind.PROMPT)] for line in rows]
        prompts = [ids for ids, _ in tokens(asked, processor)]
        limit = limit_of(model)
        for line, prompt in zip(rows, prompts, strict=True):
            if limit is not None and len(prompt) + self.max_new_tokens > limit:
                raise BadInput(
                    f"{line[:40]!r} has {len(prompt)} tokens; with max_new_tokens={self.max_new_tokens} that is more "
                    f"than the {limit} that the model reads"
                )
        with judged(model):
            said = generate(model, processor, prompts, max_new_tokens=self.max_new_tokens, batch_size=BATCH)
        return [Answer((line,), text.strip()) for line, text in zip(rows, said, strict=True)]


def tell(found: Encoding, of: int, what: str = "") -> None:
    """Warns of rows that were cut or left out."""
    for why, count in found.left_out.items():
        warnings.warn(f"{count} of {of} rows: {why}{what}", stacklevel=3)


def _trl() -> Any:
    return optional("subspace_tuning.tasks.trl_trainers", "training language models needs TRL", "llm")


def config_class(name: str) -> Any:
    """A class of trl's arguments."""
    return getattr(_trl().trl, name)
