"""Rows as token ids, each token known as given or as written by the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subspace_tuning.errors import BadInput
from subspace_tuning.rows.forms import Conversation, rows_of
from subspace_tuning.rows.kept import Kept, fingerprint
from subspace_tuning.rows.records import Records
from subspace_tuning.rows.spans import Kind, Span, spans, template_of

IGNORED = -100  # the label of a token without a loss, as torch's cross-entropy has it
Tokens = tuple[NDArray[np.int32], NDArray[np.uint8]]  # ids, kinds
CUT, CUT_AWAY = "answer cut short by max_length", "answer cut away by max_length"
NO_TOKEN = "answer of which the tokenizer makes no token"


@dataclass(frozen=True, eq=False)
class Encoded:
    """A row as token ids; ``kinds`` says of each what it is, ``size`` how many bytes of UTF-8 its uncut answers are."""

    number: int
    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    size: int

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def completion_mask(self) -> NDArray[np.int64]:
        """1 where the model writes, answers and their ends; 0 where it is given."""
        return (self.kinds != Kind.PROMPT).astype(np.int64)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """For a loss on completions only."""
        return np.where(self.kinds != Kind.PROMPT, self.ids, IGNORED)

    @property
    def prompt(self) -> NDArray[np.int32]:
        """All that stands before the last answer."""
        given = np.flatnonzero(self.kinds == Kind.PROMPT)
        return self.ids[: given[-1] + 1] if len(given) else self.ids[:0]


@dataclass(frozen=True)
class Encoding:
    """Encoded rows; how many were left out or cut, by why; and what else a reader of the numbers should know."""

    rows: list[Encoded]
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_columns(self) -> dict[str, list[list[int]]]:
        """input_ids and labels, with which TRL's SFTTrainer takes rows as they are."""
        return {
            "input_ids": [row.ids.tolist() for row in self.rows],
            "labels": [row.labels.tolist() for row in self.rows],
        }


_KEPT: Kept[Encoding] = Kept()


def encode(
    records: Records,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    answers: str = "all",
    template: str | None = None,
    ends: bool = True,
) -> Encoding:
    """Every row in token ids, at most ``max_length`` of them: the end is cut off, and rows left without an answer go.

    ends: the model is to learn where answers end, which takes an eos token. What was encoded is kept in memory by
    content. Raises BadInput where no row is left.
    """
    if ends and tokenizer.eos_token is None:
        raise BadInput("the tokenizer has no eos token, with which an answer ends; set tokenizer.eos_token")
    made_from = [records.digest(), records.numbers, fingerprint(tokenizer), max_length, answers, template]
    return _KEPT.get(made_from, lambda: _encode(records, tokenizer, max_length, answers, template))


def _encode(records: Records, tokenizer: Any, max_length: int | None, answers: str, template: str | None) -> Encoding:
    rows = rows_of(records)
    texts = [spans(row, tokenizer, answers=answers, template=template) for row in rows]
    found, left_out = [], {CUT_AWAY: 0, CUT: 0, NO_TOKEN: 0}
    for number, parts, (ids, kinds) in zip(records.numbers, texts, tokens(texts, tokenizer), strict=True):
        size = sum(len(span.text.encode()) for span in parts if span.kind == Kind.ANSWER)
        answer = int((kinds == Kind.ANSWER).sum())
        ids, kinds = ids[:max_length], kinds[:max_length]
        kept = int((kinds == Kind.ANSWER).sum())
        if kept == 0:
            left_out[CUT_AWAY if answer else NO_TOKEN] += 1
            continue
        left_out[CUT] += kept < answer
        found.append(Encoded(number, ids, kinds, size))
    if not found and left_out[NO_TOKEN] == len(rows):
        raise BadInput(f"{records.name}: the tokenizer makes no token of any answer; is it this model's?")
    if not found:
        shortest = min(len(ids) for ids, _ in tokens(texts, tokenizer))
        raise BadInput(
            f"{records.name}: max_length={max_length} cuts away the answer of every row; give a greater one "
            f"(the shortest row has {shortest} tokens)"
        )
    unnamed = template is None and template_of(tokenizer) and any(isinstance(row, Conversation) for row in rows)
    said = ("the tokenizer has no chat template: conversations are written as `User: ...` and `Assistant: ...`",)
    return Encoding(found, {why: count for why, count in left_out.items() if count}, said if unnamed else ())


def tokens(texts: Sequence[Sequence[Span]], tokenizer: Any) -> list[Tokens]:
    """Ids and kinds of each text in spans.

    A text is encoded whole, and a token has the kind of the span it lies in (ANSWER if it lies partly in one). Where a
    token would reach over the border of a prompt, the spans are encoded one by one instead, as a prompt is when a model
    goes on from it.
    """
    if not getattr(tokenizer, "is_fast", False):
        return [_one_by_one(tokenizer, parts) for parts in texts]
    whole = tokenizer(
        ["".join(span.text for span in parts) for parts in texts],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    bos = _bos(tokenizer)
    found = []
    for parts, ids, offsets in zip(texts, whole["input_ids"], whole["offset_mapping"], strict=True):
        kinds = _kinds(parts, np.array(offsets, dtype=np.int64).reshape(-1, 2))
        found.append(_one_by_one(tokenizer, parts) if kinds is None else _started(bos, ids, kinds))
    return found


def _kinds(parts: Sequence[Span], offsets: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """The kind of each token, or None where one reaches over the border of a prompt."""
    ends = np.cumsum([len(span.text) for span in parts])
    kinds = np.array([span.kind for span in parts], dtype=np.uint8)
    last = len(parts) - 1
    first_in = kinds[np.minimum(np.searchsorted(ends, offsets[:, 0], side="right"), last)]
    before_end = np.maximum(offsets[:, 1] - 1, offsets[:, 0])
    last_in = kinds[np.minimum(np.searchsorted(ends, before_end, side="right"), last)]
    over = first_in != last_in
    if (over & ((first_in == Kind.PROMPT) | (last_in == Kind.PROMPT))).any():
        return None
    return np.where(over, Kind.ANSWER, first_in).astype(np.uint8)


def _one_by_one(tokenizer: Any, parts: Sequence[Span]) -> Tokens:
    ids = [tokenizer.encode(span.text, add_special_tokens=False, verbose=False) for span in parts]
    kinds = [np.full(len(of), span.kind) for of, span in zip(ids, parts, strict=True)]
    return _started(_bos(tokenizer), [i for of in ids for i in of], np.concatenate(kinds))


def _started(bos: list[int], ids: list[int], kinds: NDArray[Any]) -> Tokens:
    """With the bos token in front, unless the chat template has written it."""
    bos = [] if ids[: len(bos)] == bos else bos
    given = np.full(len(bos), Kind.PROMPT)
    return np.array([*bos, *ids], dtype=np.int32), np.concatenate([given, kinds]).astype(np.uint8)


def _bos(tokenizer: Any) -> list[int]:
    """The bos token of tokenizers that begin every text with one."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []
