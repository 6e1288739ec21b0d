"""Generation: what the model writes after each prompt, against the row's own answer."""

from __future__ import annotations

import re
from typing import Any

from pydantic import PositiveInt, field_validator
from pydantic.dataclasses import dataclass

from subspace_tuning.errors import BadInput
from subspace_tuning.judge.generate import ends_of, generate
from subspace_tuning.judge.judgement import STRICT, OfRows, Progress, register
from subspace_tuning.judge.ready import limit_of
from subspace_tuning.judge.verdict import Verdict
from subspace_tuning.judge.written import METRICS, known
from subspace_tuning.rows import Records, encode, rows_of

TOO_LONG = "prompt longer than the model reads"


@register("generation")
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Generation(OfRows):
    """Metrics of greedy answers, all from one generation; the first one named is the main one.

    Of a conversation the last answer is asked for. stop: strings that end an answer, beside eos. extract: a regular
    expression whose last match (its first group, if it has one) is compared, in place of the whole text.
    """

    metrics: tuple[str, ...] = ("exact_match",)
    max_new_tokens: PositiveInt = 128
    stop: tuple[str, ...] = ()
    extract: str | None = None
    batch_size: PositiveInt = 16

    @field_validator("metrics", "stop", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"name one or more of {', '.join(METRICS)}")
        known(value)
        return value

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty string would stop every answer before it begins")
        return value

    @field_validator("extract")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"it is no regular expression ({error})") from error
        return value

    @property
    def told(self) -> tuple[str, ...]:
        return self.metrics

    def judge(self, model: Any, tokenizer: Any, records: Records, progress: Progress) -> Verdict:
        wanted = dict(zip(records.numbers, (row.answer for row in rows_of(records)), strict=True))
        encoding = encode(records, tokenizer, answers="last", ends=False)
        if any(not len(row.prompt) for row in encoding.rows):
            raise BadInput(
                f"{records.name}: generation needs a prompt, and there are rows of plain text; take bits_per_byte"
            )
        limit = limit_of(model)
        room = None if limit is None else limit - self.max_new_tokens
        fits = [at for at, row in enumerate(encoding.rows) if room is None or len(row.prompt) <= room]
        if not fits:
            raise BadInput(
                f"{records.name}: every prompt is longer than the {room} tokens that the model reads beside "
                f"max_new_tokens={self.max_new_tokens}"
            )
        written = generate(
            model,
            tokenizer,
            [encoding.rows[at].prompt for at in fits],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            stops=self.stop,
            progress=progress,
        )
        answers = [wanted[encoding.rows[at].number] for at in fits]
        compared = [self._extracted(text) for text in written], [self._extracted(text) for text in answers]
        if self.extract and not all(compared[1]):
            raise BadInput(f"extract: {self.extract!r} finds nothing in the answer {answers[compared[1].index('')]!r}")
        scored = {name: METRICS[name](*compared) for name in self.metrics}
        too_long = len(encoding.rows) - len(fits)
        endless = not ends_of(model, tokenizer) and not self.stop
        return Verdict(
            judge=self.label,
            metric=self.metrics[0],
            metrics={name: of.value for name, of in scored.items()},
            numbers=[encoding.rows[at].number for at in fits],
            per_row={name: of.rows for name, of in scored.items()},
            data=records.digest(),
            left_out=encoding.left_out | ({TOO_LONG: too_long} if too_long else {}),
            notes=(
                *encoding.notes,
                *(["there is no eos token: every answer runs to max_new_tokens"] if endless else []),
            ),
            texts=written,
        )

    def _extracted(self, text: str) -> str:
        if self.extract is None:
            return text
        found = list(re.finditer(self.extract, text))
        return "" if not found else found[-1][1 if found[-1].re.groups else 0] or ""
