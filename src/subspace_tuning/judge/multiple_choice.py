"""Multiple choice: the option that the model finds most likely."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from subspace_tuning.errors import BadInput, shown
from subspace_tuning.judge.judgement import STRICT, OfRows, Progress, register
from subspace_tuning.judge.likelihood import Likelihood
from subspace_tuning.judge.questions import Question, questions_of
from subspace_tuning.judge.ready import limit_of, opened
from subspace_tuning.judge.trie import Sequence
from subspace_tuning.judge.verdict import Verdict
from subspace_tuning.rows import Kind, Records
from subspace_tuning.rows.encode import tokens
from subspace_tuning.rows.kept import Kept, fingerprint
from subspace_tuning.rows.spans import Span, template_of, written

RAW, PER_BYTE, PER_TOKEN = "accuracy", "accuracy_per_byte", "accuracy_per_token"
MAIN = {"none": RAW, "length": PER_BYTE, "tokens": PER_TOKEN}
TOO_LONG = "question longer than the model reads"
_KEPT: Kept[list[list[Sequence]]] = Kept()


@register("multiple_choice")
@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultipleChoice(OfRows):
    """argmax over options of log p(option | question), as it is, divided by the option's bytes, and by its tokens.

    normalise: which of the three is the main metric (none, length: bytes, tokens); all are told. ``probability`` is
    that of the right option among the options. template: what stands before an option, with {question}, {passage},
    {options} (lettered lines) and {instruction}; by default the cloze form, ``Question: ...\\nAnswer:``, or a sentence
    to be ended. option: what is judged, with {option}, {letter} and {label}. chat: put as a user's turn.
    """

    normalise: Literal["none", "length", "tokens"] = "none"
    template: str | None = None
    option: str | None = None
    chat: bool = False
    batch_tokens: PositiveInt = 4096

    @property
    def told(self) -> tuple[str, ...]:
        return (RAW, PER_BYTE, PER_TOKEN, "probability", "chance")

    def judge(self, model: Any, tokenizer: Any, records: Records, progress: Progress) -> Verdict:
        questions = questions_of(records)
        groups = self._encoded(questions, tokenizer)
        lengths = [max(len(one.ids) for one in group) for group in groups]
        limit = limit_of(model) or max(lengths)
        fits = [at for at, length in enumerate(lengths) if length <= limit]
        if not fits:
            raise BadInput(f"{records.name}: every question is longer than the {limit} tokens that the model reads")
        reader = Likelihood(model, self.batch_tokens)
        read = reader([groups[at] for at in fits], progress)
        told = [self._told(questions[at], log_probs) for at, log_probs in zip(fits, read, strict=True)]
        per_row = {metric: [row[metric] for row in told] for metric in told[0]}
        apart = not reader.shares and any(len(group) > 1 for group in groups)
        unnamed = self.chat and template_of(tokenizer)
        return Verdict(
            judge=self.label,
            metric=MAIN[self.normalise],
            metrics={metric: float(np.mean(values)) for metric, values in per_row.items()},
            numbers=[records.numbers[at] for at in fits],
            per_row=per_row,
            data=records.digest(),
            left_out={TOO_LONG: len(questions) - len(fits)} if len(fits) < len(questions) else {},
            notes=(
                *(["the model takes no mask of one's own, so that options were read one by one"] if apart else []),
                *(["the tokenizer has no chat template: questions are put as `User: ...`"] if unnamed else []),
            ),
        )

    def _encoded(self, questions: list[Question], tokenizer: Any) -> list[list[Sequence]]:
        """Of each question, of each option: question and option as ids, the option judged."""
        texts = [self._spans(question, tokenizer) for question in questions]
        return _KEPT.get([fingerprint(tokenizer), texts], lambda: _sequences(texts, tokenizer))

    def _spans(self, question: Question, tokenizer: Any) -> list[tuple[Span, Span]]:
        before, answers = question.put(self.template), question.answers(self.option)
        if self.chat:
            before = written((("user", before),), tokenizer, opens=True)
            answers = [answer if self.option else answer.strip() for answer in answers]
        return [(Span(before, Kind.PROMPT), Span(answer, Kind.ANSWER)) for answer in answers]

    def _told(self, question: Question, log_probs: list[NDArray[np.float64]]) -> dict[str, float]:
        raw = np.array([of.sum() for of in log_probs])
        sizes = np.array([len(answer.strip().encode()) for answer in question.answers(self.option)])
        lengths = np.array([len(of) for of in log_probs])
        likely = np.exp(raw - raw.max())
        chosen = {RAW: raw, PER_BYTE: raw / sizes, PER_TOKEN: raw / lengths}
        right = {metric: float(scores.argmax() == question.right) for metric, scores in chosen.items()}
        return right | {"probability": float(likely[question.right] / likely.sum()), "chance": 1 / len(raw)}


def _sequences(texts: list[list[tuple[Span, Span]]], tokenizer: Any) -> list[list[Sequence]]:
    flat = iter(tokens([parts for options in texts for parts in options], tokenizer))
    return [[_sequence(option.text, *next(flat), tokenizer) for _, option in options] for options in texts]


def _sequence(option: str, ids: NDArray[np.int32], kinds: NDArray[np.uint8], tokenizer: Any) -> Sequence:
    judged = kinds == Kind.ANSWER
    if not judged.any():  # it would have the probability 1
        raise BadInput(f"the tokenizer makes no token of the option {shown(option)}, so that it cannot be judged")
    return Sequence(*opened(ids, judged, tokenizer))
