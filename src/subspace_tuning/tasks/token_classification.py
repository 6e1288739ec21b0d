"""Which tag each word of a sentence has: names of persons and places, parts of speech."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from subspace_tuning.errors import BadInput, shown
from subspace_tuning.files.conll import SUFFIXES as CONLL
from subspace_tuning.files.conll import read_conll
from subspace_tuning.files.table import SUFFIXES, Table
from subspace_tuning.files.text import UTF8
from subspace_tuning.rows.encode import IGNORED
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.forward import outputs
from subspace_tuning.tasks.labels import classes, named
from subspace_tuning.tasks.metrics import undefined
from subspace_tuning.tasks.optional import optional
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import ABOUT, Answer, Collate, Inputs, Metric, seen
from subspace_tuning.tasks.weighted import Weighted, balanced, weighted_cross_entropy

OUTSIDE = "O"
_LACKS = {
    "f1_score": "neither labels nor predictions have an entity",
    "precision_score": "no entity is predicted",
    "recall_score": "no row has an entity",
}
_ENTITY_TAG = re.compile(r"O|[BIESLU]-.+")
Tags = Sequence[Sequence[str]]  # of each row


class Tagged(NamedTuple):
    """The words of a sentence and the numbers of their tags, None where they are asked for."""

    words: tuple[str, ...]
    tags: tuple[int, ...] | None


def _of_entities(name: str) -> Callable[[Tags, Tags], float]:
    def measure(predicted: Tags, labels: Tags) -> float:
        from seqeval import metrics

        said, held = (any(tag != OUTSIDE for row in rows for tag in row) for rows in (predicted, labels))
        if not {"f1_score": said or held, "precision_score": said, "recall_score": held}[name]:
            undefined(name.removesuffix("_score"), f"{_LACKS[name]}; it counts as 0")
        return float(getattr(metrics, name)(list(labels), list(predicted), zero_division=0))

    measure.__doc__ = f"seqeval's {name}, as CoNLL's: an entity is right where all of it is, and its kind."
    return measure


def word_accuracy(predicted: Tags, labels: Tags) -> float:
    """The share of words with the right tag."""
    pairs = [pair for row in zip(predicted, labels, strict=True) for pair in zip(*row, strict=True)]
    return float(np.mean([a == b for a, b in pairs]))


@register("token_classification")
@dataclass(frozen=True, kw_only=True)
class TokenClassification(Weighted):
    """labels: the tags, in the order of the head's outputs. A sentence longer than max_length is read in pieces.

    A word has the tag of its first token. Entities are counted where the tags are O, B-..., I-... (E, S, L, U too).
    """

    row = "a list of words and one of their tags; or a file .conll, .bio, .iob, .txt with a word a line, its tag last"
    suffixes = (*SUFFIXES, *CONLL)
    head = "AutoModelForTokenClassification"
    task_type = "TOKEN_CLS"
    pipeline = "token-classification"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "f1": _of_entities("f1_score"),
        "precision": _of_entities("precision_score"),
        "recall": _of_entities("recall_score"),
        "word_accuracy": word_accuracy,
    }

    tokens: str = "tokens"
    tags: str = "tags"

    def __post_init__(self) -> None:
        if not self.metric and not self.has_entities:
            object.__setattr__(self, "metric", "word_accuracy")
        super().__post_init__()
        if not self.has_entities and self.metric != "word_accuracy":
            raise BadInput(
                f"metric: {self.metric} counts entities, and the labels are no tags of entities (O, B-..., I-...); "
                "take metric: word_accuracy"
            )

    @property
    def has_entities(self) -> bool:
        return all(_ENTITY_TAG.fullmatch(label) for label in self.labels)

    def config(self) -> dict[str, Any]:
        return named(self.labels)

    # rows

    def read(self, path: Path, encoding: str = UTF8) -> Sequence[Tagged]:
        if path.suffix in CONLL:
            return self.rows(read_conll(path, self.tokens, self.tags, encoding))
        return super().read(path, encoding)

    def rows(self, table: Table) -> list[Tagged]:
        words, tags = (_lists(table, column) for column in (self.tokens, self.tags))
        for row, (a, b) in enumerate(zip(words, tags, strict=True)):
            if len(a) != len(b):
                raise BadInput(f"{table.place(row)}: {len(a)} words and {len(b)} tags; expected a tag for each word")
            for word in a:
                if not isinstance(word, str) or not word.strip():
                    raise BadInput(f"{table.place(row)}: a word is {shown(word)}, expected a text that is not empty")
        lines = [table.lines[row] for row, held in enumerate(tags) for _ in held]
        flat = Table(table.name, {self.tags: [tag for held in tags for tag in held]}, lines, table.unit)
        found = iter(classes(flat, self.tags, self.labels))
        return [Tagged(tuple(held), tuple(next(found) for _ in held)) for held in words if held]

    def labels_of(self, row: Tagged) -> Sequence[str | float]:
        return tuple(self.labels[tag] for tag in row.tags or ())

    def encode(self, rows: Sequence[Tagged], processor: Any, max_length: int | None) -> list[Inputs]:
        """In pieces of at most max_length tokens, each of which knows the places of its words."""
        if not processor.is_fast:
            raise BadInput("tagging words needs a fast tokenizer, which tells which word a token belongs to")
        if not rows:
            return []
        length = texts.max_length(max_length, processor)
        tokens = processor(
            [list(row.words) for row in rows],
            is_split_into_words=True,
            truncation=True,
            max_length=length,
            return_overflowing_tokens=True,
            **texts.AS_TEXT,
        )
        told: list[set[int]] = [set() for _ in rows]
        return [
            self._piece(tokens, at, number, rows[number], told[number])
            for at, number in enumerate(tokens["overflow_to_sample_mapping"])
        ]

    def _piece(self, tokens: Any, at: int, number: int, row: Tagged, told: set[int]) -> Inputs:
        """One piece of a row; ``told`` are the words whose first token stood in an earlier one."""
        places, words = [], []
        for place, word in enumerate(tokens.word_ids(at)):
            if word is not None and word not in told:
                told.add(word)
                places.append(place)
                words.append(word)
        names = ("input_ids", "token_type_ids", "attention_mask")
        inputs: Inputs = {name: tokens[name][at] for name in names if name in tokens}
        inputs[ABOUT] = {"row": number, "places": places, "words": words, "size": len(row.words)}
        if row.tags is not None:
            labels = [IGNORED] * len(inputs["input_ids"])
            for place, word in zip(places, words, strict=True):
                labels[place] = row.tags[word]
            inputs["labels"] = labels
            inputs[ABOUT]["tags"] = list(row.tags)
        return inputs

    def balance(self, train: Sequence[Inputs]) -> NDArray:
        tags = [tag for row in train for tag in row["labels"] if tag != IGNORED]
        return balanced(tags, len(self.labels))

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return weighted_cross_entropy(logits, labels, weights)

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        texts.check(model, processor, inputs)
        optional("seqeval.metrics", "counting entities needs the package seqeval", "text")

    def collator(self, processor: Any) -> Collate:
        from transformers import DataCollatorForTokenClassification

        processor.padding_side = "right"  # places count from the left
        return seen(DataCollatorForTokenClassification(processor))

    # what the model says

    def scores(self, predictions: Any, labels: NDArray, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        logits = predictions[0] if isinstance(predictions, tuple) else predictions
        said = self._tags(np.argmax(logits, axis=-1), judged)
        right = {row[ABOUT]["row"]: [self.labels[tag] for tag in row[ABOUT]["tags"]] for row in judged}
        pair = list(said.values()), [right[number] for number in said]
        wanted = self.metrics if self.has_entities else {"word_accuracy": word_accuracy}
        return {name: metric(*pair) for name, metric in wanted.items()}

    def _tags(self, said: Sequence[Any], judged: Sequence[Inputs]) -> dict[int, list[str]]:
        """The tags of each row by its number; a word without any token is outside."""
        outside = OUTSIDE if OUTSIDE in self.labels else self.labels[0]
        found: dict[int, list[str]] = {}
        for numbers, about in zip(said, (row[ABOUT] for row in judged), strict=True):
            tags = found.setdefault(about["row"], [outside] * about["size"])
            for place, word in zip(about["places"], about["words"], strict=True):
                tags[word] = self.labels[int(numbers[place])]
        return found

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Tagged | None]:
        """A sentence a line, its words parted by blanks."""
        return [Tagged(tuple(line.split()), None) if line.strip() else None for line in lines]

    def answers(self, model: Any, processor: Any, rows: Sequence[Tagged], max_length: int | None) -> list[Answer]:
        """The tags of the words, parted by blanks."""
        length = texts.max_length(max_length, processor)
        inputs = self.encode(rows, processor, min(length, texts.positions(model) or length))
        texts.check(model, processor, inputs)
        said = [logits.argmax(-1).tolist() for (logits,) in outputs(model, self.collator(processor), inputs)]
        tags = self._tags(said, inputs)
        return [Answer((" ".join(row.words),), " ".join(tags[number])) for number, row in enumerate(rows)]


def _lists(table: Table, column: str) -> Sequence[list[Any]]:
    values = table.column(column)
    for row, value in enumerate(values):
        if not isinstance(value, list):
            raise BadInput(
                f"{table.place(row)}: column {column!r} holds {shown(value)}, expected a list, an entry a word"
            )
    return values
