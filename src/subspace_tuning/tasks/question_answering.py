"""Where in a text the answer to a question stands, or that it has none (SQuAD, arXiv:1606.05250 and 1806.03822)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import PositiveInt

from subspace_tuning.errors import BadInput, shown
from subspace_tuning.files.table import Table, parsed, read_table, table_of
from subspace_tuning.files.text import SAY_WHICH, UTF8, read_text
from subspace_tuning.tasks import texts
from subspace_tuning.tasks.forward import outputs
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import ABOUT, Answer, Collate, Inputs, Metric, Task

LENGTH = 384  # tokens of a question and a piece of its context
BEST = 20  # starts and ends that are tried
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)


class Asked(NamedTuple):
    """A question, the text to look in, and its answers as (text, first character); None where they are asked for."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None


def words_of(answer: str) -> list[str]:
    """As SQuAD compares answers: in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_MARKS)).split()


def exact_match(said: str, answers: Sequence[str]) -> float:
    """1 where it is one of the answers; of a question without any, where nothing is said."""
    return float(any(words_of(said) == words_of(answer) for answer in answers or ("",)))


def f1(said: str, answers: Sequence[str]) -> float:
    """F1 of the words in common, with the nearest of the answers."""

    def with_one(answer: str) -> float:
        a, b = words_of(said), words_of(answer)
        common = sum((Counter(a) & Counter(b)).values())
        return 2 * common / (len(a) + len(b)) if a and b else float(a == b)

    return max(with_one(answer) for answer in answers or ("",))


@register("question_answering")
@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """A context longer than max_length (384 tokens) is read in pieces that overlap by ``stride``.

    The answer is the span of the highest start and end together, at most ``longest`` tokens; none where the first token
    is higher.
    """

    row = "question, context and answers (text and answer_start, several or none); or a file of SQuAD's own form"
    head = "AutoModelForQuestionAnswering"
    task_type = "QUESTION_ANS"
    pipeline = "question-answering"
    metrics: ClassVar[Mapping[str, Metric]] = {"f1": f1, "exact_match": exact_match}

    stride: PositiveInt = 128
    longest: PositiveInt = 30

    # rows

    def read(self, path: Path, encoding: str = UTF8) -> list[Asked]:
        own = squad(path, encoding) if path.suffix == ".json" and path.is_file() else None
        return self.rows(read_table(path, encoding) if own is None else own)

    def rows(self, table: Table) -> list[Asked]:
        questions, contexts = (texts.column_of(table, column) for column in ("question", "context"))
        answers = [_spans(value, table.place(row)) for row, value in enumerate(table.column("answers"))]
        for row, (context, spans) in enumerate(zip(contexts, answers, strict=True)):
            for said, start in spans:
                if context[start : start + len(said)] != said or not said.strip():
                    found = context[start : start + len(said)]
                    raise BadInput(
                        f"{table.place(row)}: the answer {shown(said)} does not stand at character {start} of its "
                        f"context, where {shown(found)} stands; answer_start counts characters from 0"
                    )
        return [Asked(*row) for row in zip(questions, contexts, answers, strict=True)]

    def group(self, row: Asked) -> Hashable:
        return row.context

    def labels_of(self, row: Asked) -> Sequence[str | float]:
        return ("an answer" if row.answers else "no answer",)

    def encode(self, rows: Sequence[Asked], processor: Any, max_length: int | None) -> list[Inputs]:
        if not processor.is_fast:
            raise BadInput("finding answers needs a fast tokenizer, which tells which characters a token stands for")
        length = max_length or min(LENGTH, processor.model_max_length)
        return [piece for number, row in enumerate(rows) for piece in self._pieces(row, number, processor, length)]

    def _pieces(self, row: Asked, number: int, processor: Any, length: int) -> list[Inputs]:
        """The question with each piece of its context; a piece without the whole answer has none."""
        special = processor.num_special_tokens_to_add(pair=True)
        room = length - special - len(processor(row.question, add_special_tokens=False, **texts.AS_TEXT)["input_ids"])
        if room < 2:
            raise BadInput(
                f"max_length: {length} leaves no room for a context beside the question {shown(row.question)}"
            )
        tokens = processor(
            row.question.lstrip(),
            row.context,
            truncation="only_second",
            max_length=length,
            stride=min(self.stride, room // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            **texts.AS_TEXT,
        )
        names = ("input_ids", "token_type_ids", "attention_mask")
        found = []
        for at, offsets in enumerate(tokens["offset_mapping"]):
            spans = [list(o) if part == 1 else None for o, part in zip(offsets, tokens.sequence_ids(at), strict=True)]
            inputs: Inputs = {name: tokens[name][at] for name in names if name in tokens}
            inputs[ABOUT] = {"row": number, "spans": spans, "context": row.context}
            if row.answers is not None:
                inputs[ABOUT]["answers"] = [said for said, _ in row.answers]
                first, last = _place(spans, row.answers)
                inputs |= {"start_positions": first, "end_positions": last}
            found.append(inputs)
        return found

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        texts.check(model, processor, inputs)

    # training

    def arguments(self) -> tuple[Any, dict[str, Any]]:
        kind, _ = super().arguments()
        return kind, {"label_names": ["start_positions", "end_positions"]}

    def collator(self, processor: Any) -> Collate:
        processor.padding_side = "right"  # places count from the left
        return super().collator(processor)

    # what the model says

    def scores(self, predictions: Any, labels: Any, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        said = self._said(zip(*predictions[:2], strict=True), judged)
        right = {row[ABOUT]["row"]: row[ABOUT]["answers"] for row in judged}
        found = {name: [metric(said[row], right[row]) for row in said] for name, metric in self.metrics.items()}
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _said(self, logits: Any, judged: Sequence[Inputs]) -> dict[int, str]:
        """The answer to each row by its number, from (starts, ends) of each piece."""
        best: dict[int, tuple[float, str]] = {}
        nothing: dict[int, float] = {}
        for (starts, ends), about in zip(logits, (row[ABOUT] for row in judged), strict=True):
            row, spans = about["row"], about["spans"]
            nothing[row] = min(nothing.get(row, np.inf), float(starts[0] + ends[0]))
            score, first, last = self._best(np.asarray(starts), np.asarray(ends), spans)
            if score > best.get(row, (-np.inf, ""))[0]:
                best[row] = (score, about["context"][spans[first][0] : spans[last][1]])
        return {row: best[row][1] if row in best and best[row][0] > without else "" for row, without in nothing.items()}

    def _best(self, starts: Any, ends: Any, spans: Sequence[Any]) -> tuple[float, int, int]:
        """The highest start and end in order, in the context, and not too far apart."""
        inside = np.array([place for place, span in enumerate(spans) if span is not None], dtype=int)
        if not inside.size:
            return -np.inf, 0, 0
        firsts, lasts = (inside[np.argsort(-values[inside])[:BEST]] for values in (starts, ends))
        score = starts[firsts][:, None] + ends[lasts][None]
        far = lasts[None] - firsts[:, None]
        score = np.where((far >= 0) & (far < self.longest), score, -np.inf)
        at = np.unravel_index(np.argmax(score), score.shape)
        return float(score[at]), int(firsts[at[0]]), int(lasts[at[1]])

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Asked | None]:
        """A question and a context a line, parted by a tab."""
        found: list[Asked | None] = []
        for line, place in zip(lines, places, strict=True):
            question, tab, context = line.partition("\t")
            if line.strip() and not (tab and question.strip() and context.strip()):
                raise BadInput(f"{place} is no question with a context; {self.name} wants question TAB context")
            found.append(Asked(question, context, None) if line.strip() else None)
        return found

    def answers(self, model: Any, processor: Any, rows: Sequence[Asked], max_length: int | None) -> list[Answer]:
        """The words of the context, or nothing."""
        length = max_length or min(LENGTH, processor.model_max_length)
        inputs = self.encode(rows, processor, min(length, texts.positions(model) or length))
        texts.check(model, processor, inputs)
        names = ("start_logits", "end_logits")
        said = self._said((map(np.asarray, o) for o in outputs(model, self.collator(processor), inputs, names)), inputs)
        return [Answer((row.question, row.context), said[number]) for number, row in enumerate(rows)]


def _place(spans: Sequence[Any], answers: Sequence[tuple[str, int]]) -> tuple[int, int]:
    """The first and the last token of the first answer; the first token where the piece has not all of it."""
    if not answers:
        return 0, 0
    said, start = answers[0]
    inside = [place for place, span in enumerate(spans) if span and span[1] > start and span[0] < start + len(said)]
    whole = inside and spans[inside[0]][0] <= start and spans[inside[-1]][1] >= start + len(said)
    return (inside[0], inside[-1]) if whole else (0, 0)


def _spans(value: Any, place: str) -> tuple[tuple[str, int], ...]:
    """Of {text: [...], answer_start: [...]} as the hub has it, or of a list of {text, answer_start}."""
    if isinstance(value, dict) and isinstance(value.get("text"), list) and isinstance(value.get("answer_start"), list):
        sizes = len(value["text"]), len(value["answer_start"])
        if sizes[0] != sizes[1]:
            raise BadInput(f"{place}: answers holds {sizes[0]} text(s) and {sizes[1]} answer_start, expected as many")
        pairs = [*zip(value["text"], value["answer_start"], strict=True)]
    elif isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in value]
    else:
        raise BadInput(f"{place}: answers holds {shown(value)}, expected a list of texts with their answer_start")
    for said, start in pairs:
        if not isinstance(said, str) or not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise BadInput(
                f"{place}: an answer is {shown(said)} at {start!r}, expected a text and the place of its first letter"
            )
    return tuple(pairs)


def squad(path: Path, encoding: str) -> Table | None:
    """The questions of a file of SQuAD's own form; None for another one."""
    held = parsed(read_text(path, encoding, SAY_WHICH), str(path), "json")
    articles = held.get("data") if isinstance(held, dict) else None
    if not isinstance(articles, list) or not all(isinstance(a, dict) and "paragraphs" in a for a in articles):
        return None
    try:
        found = [
            (asked["question"], part["context"], [] if asked.get("is_impossible") else asked["answers"])
            for article in articles
            for part in article["paragraphs"]
            for asked in part["qas"]
        ]
    except KeyError as error:
        raise BadInput(f"{path} is not of SQuAD's form: {error} is missing in a paragraph or question") from error
    except TypeError as error:
        raise BadInput(
            f"{path} is not of SQuAD's form: expected articles with a list of paragraphs, each with a context and a "
            f"list of qas ({error})"
        ) from error
    if not found:
        raise BadInput(f"{path} is empty: expected at least one question")
    names = ("question", "context", "answers")
    return table_of(str(path), {name: [row[i] for row in found] for i, name in enumerate(names)})
