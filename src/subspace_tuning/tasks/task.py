"""What a kind of task is: a frozen dataclass whose fields are what a recipe says of it.

From it follow the reading of data, the head, training, judging, prediction, sweeps and reports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.files.table import SUFFIXES, Table, read_table
from subspace_tuning.files.text import UTF8

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import Trainer, TrainingArguments

Row = Any  # of data, as its kind reads it; hashable kinds of rows can be compared by tests
Inputs = dict[str, Any]  # one row as the model takes it, with its labels where there are some
Collate = Callable[[list[Inputs]], Any]  # several inputs as one batch
Metric = Callable[..., float]
Fetch = Callable[["Task"], tuple[Sequence[Row], Sequence[Row] | None]]  # training and validation rows


class Answer(NamedTuple):
    """What a model says to a row: a label, a number or a text; None where nothing was asked."""

    text: tuple[str, ...]  # the row, as a person would write it
    answer: str | float | None
    score: float | None = None  # how sure the model is, where it says so


ABOUT = "about"  # an entry of inputs that no model sees: what metrics and answers want to know of the row
BY_CODE = {"by_code": True}  # of fields that tasks known by name have, and no recipe says


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A kind of task, or one of the kind that is known by name (its fields filled in)."""

    kind: ClassVar[str] = ""  # the name it is registered under
    row: ClassVar[str]  # what a row of data is, in words
    suffixes: ClassVar[Sequence[str]] = SUFFIXES  # of files of rows
    endings: ClassVar[Sequence[str]] = ()  # of files each of which is a row in prediction, such as a picture
    head: ClassVar[str]  # the class of transformers whose models have the head
    has_head: ClassVar[bool] = True  # whether a base lacks a head that is trained anew
    processor: ClassVar[str] = "AutoTokenizer"  # the class of transformers that makes inputs of rows
    task_type: ClassVar[str | None]  # what PEFT calls it, where it has a name for it
    pipeline: ClassVar[str]  # what transformers' pipelines call it
    metrics: ClassVar[Mapping[str, Metric]]  # the greater the better; the first is the usual one
    judgements: ClassVar[Sequence[Mapping[str, Any]]] = ()  # of the usual run (judge/), instead of ``judge``
    free: ClassVar[Sequence[str]] = ("metric",)  # what a recipe may say of a task known by name, too
    usual: ClassVar[Mapping[str, Any]] = {"batch_size": 32, "epochs": 3.0}  # values of a recipe that says none

    metric: str = ""  # by which runs are compared
    name: str = field(default="", metadata=BY_CODE)  # of a task known by name; otherwise its kind's
    validation: tuple[str, ...] = field(default=("validation",), metadata=BY_CODE)  # files to judge by, the first found
    fetch: Fetch | None = field(default=None, metadata=BY_CODE)  # rows where no data is named

    def __post_init__(self) -> None:
        given = {"name": self.name or self.kind, "metric": self.metric or next(iter(self.metrics))}
        for key, value in given.items():
            object.__setattr__(self, key, value)
        if self.metric not in self.metrics:
            raise BadInput(
                f"unknown metric {self.metric!r} for a {self.kind}: {nearest(self.metric, self.metrics)}"
                f"known are {', '.join(self.metrics)}"
            )

    @classmethod
    def keys(cls) -> list[str]:
        """What a recipe can say of it."""
        return [f.name for f in fields(cls) if not f.metadata.get("by_code")]

    def to_data(self) -> dict[str, Any]:
        """What a recipe would say, as plain data."""
        values = {key: getattr(self, key) for key in self.keys()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    # rows

    def read(self, path: Path, encoding: str = UTF8) -> Sequence[Row]:
        """The checked rows of a file. Raises BadInput with the place at fault."""
        return self.rows(read_table(path, encoding))

    def elsewhere(self, source: str) -> tuple[Sequence[Row], Sequence[Row] | None] | None:
        """Training and validation rows of a source that is no file or folder; None where the kind knows none."""
        return None

    @abstractmethod
    def rows(self, table: Table) -> Sequence[Row]:
        """The checked rows of a table, one for each of its own. Raises BadInput with the place at fault."""

    @abstractmethod
    def encode(self, rows: Sequence[Row], processor: Any, max_length: int | None) -> Sequence[Inputs]:
        """What the model takes, with labels where the rows have some."""

    def group(self, row: Row) -> Hashable:
        """What rows have in common that are held out or drawn together, such as a query; None: a row stands alone."""
        return None

    def labels_of(self, row: Row) -> Sequence[str | float]:
        """What a row is labelled with, to be counted: names, or a number; nothing where an answer is a text."""
        return ()

    def check_judged(self, rows: Sequence[Row]) -> None:
        """Raises BadInput where nothing can be judged by these rows."""

    # the model

    def config(self) -> dict[str, Any]:
        """What the model's config says of the head, such as the names of labels."""
        return {}

    def join(self, model: Any, processor: Any) -> None:
        """Let a model agree with what makes its inputs, whenever it is loaded."""

    def start(self, model: Any, head: Sequence[str], train: Sequence[Inputs]) -> None:
        """Fit a fresh model to the data, before a method is put on; ``head``: paths of the modules that are new."""

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        """Raises BadInput for inputs that the model cannot take."""

    # training and judging

    def trainer(self) -> type[Trainer]:
        from transformers import Trainer

        return Trainer

    def arguments(self) -> tuple[type[TrainingArguments], dict[str, Any]]:
        """The class of the trainer's arguments, and values of the task's own for it."""
        from transformers import TrainingArguments

        return TrainingArguments, {"label_names": ["labels"]}

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        """What the trainer takes besides model, arguments, rows and callbacks.

        train, judged: the rows as inputs; those that are judged in the order of the predictions.
        """

        def scored(found: Any) -> dict[str, float]:
            return self.scores(found.predictions, found.label_ids, judged)

        return {
            "data_collator": self.collator(processor),
            "processing_class": processor,
            "compute_metrics": scored,
        }

    def averaged(self, batch: Mapping[str, Any]) -> int | None:
        """How many losses the loss of a batch is the mean of; None: as many as it has labels."""
        return None

    def collator(self, processor: Any) -> Collate:
        """Several inputs as one batch, without what is only about them."""
        from transformers import DataCollatorWithPadding

        return seen(DataCollatorWithPadding(processor))

    def scores(self, predictions: Any, labels: Any, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        """Every metric of the kind, from what the model put out for the rows that it is judged by."""
        predicted = self.predicted(self.logits(predictions))
        return {name: metric(predicted, labels, **self.about()) for name, metric in self.metrics.items()}

    @staticmethod
    def logits(predictions: Any) -> NDArray:
        """Those among what the model put out; some models say more."""
        return predictions[0] if isinstance(predictions, tuple) else predictions

    def predicted(self, logits: NDArray) -> NDArray:
        """What is compared with the labels."""
        raise NotImplementedError(f"{type(self).__name__} has no labels to score by; judge it otherwise")

    def about(self) -> dict[str, Any]:
        """What metrics want to know of the task."""
        return {}

    def judge(self, trainer: Trainer) -> dict[str, float]:
        """Every metric of the trained model on the rows held out for it."""
        found = trainer.evaluate()
        return {name: found[f"eval_{name}"] for name in self.metrics if f"eval_{name}" in found}

    # prediction

    @abstractmethod
    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Row | None]:
        """Rows without an answer, from lines of text, None for a blank one; ``places`` say in errors which it is."""

    @abstractmethod
    def answers(self, model: Any, processor: Any, rows: Sequence[Row], max_length: int | None) -> list[Answer]:
        """What the model says to each row."""


def seen(collate: Collate) -> Collate:
    """Collates what the model sees of the inputs."""
    return partial(_seen, collate)


def _seen(collate: Collate, inputs: list[Inputs]) -> Any:
    return collate([{key: value for key, value in row.items() if key != ABOUT} for row in inputs])
