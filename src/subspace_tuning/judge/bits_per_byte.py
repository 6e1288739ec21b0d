"""Bits per byte: how many bits the model needs for a byte of the answers, or of plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from subspace_tuning.judge.judgement import STRICT, OfRows, Progress, register
from subspace_tuning.judge.likelihood import Likelihood
from subspace_tuning.judge.ready import limit_of, opened
from subspace_tuning.judge.trie import Sequence
from subspace_tuning.judge.verdict import Verdict
from subspace_tuning.rows import Kind, Records, encode


@register("bits_per_byte")
@dataclass(frozen=True, kw_only=True, config=STRICT)
class BitsPerByte(OfRows):
    """- sum log2 p(answer tokens | all before) / bytes of the answers in UTF-8; the smaller the better.

    Comparable across tokenizers, as the loss of a token is not. Of conversations the answers' own content counts, not
    the template's marks. Texts longer than ``window`` tokens (or than the model reads) are read in windows that overlap
    by a half, each token judged once. answers: of a conversation all, or the last one.
    """

    answers: Literal["all", "last"] = "all"
    window: int = Field(1024, ge=4)
    batch_tokens: PositiveInt = 4096

    @property
    def told(self) -> tuple[str, ...]:
        return ("bits_per_byte", "loss", "perplexity")

    def judge(self, model: Any, tokenizer: Any, records: Records, progress: Progress) -> Verdict:
        encoding = encode(records, tokenizer, answers=self.answers, ends=False)
        window = min(self.window, limit_of(model) or self.window)
        pieces = [
            list(_windows(*opened(row.ids, row.kinds == Kind.ANSWER, tokenizer), window)) for row in encoding.rows
        ]
        read = Likelihood(model, self.batch_tokens)([[piece] for row in pieces for piece in row], progress)
        each = iter(log_probs for [log_probs] in read)
        nats = np.array([-sum(float(next(each).sum()) for _ in row) for row in pieces])
        tokens = sum(int(piece.judged.sum()) for row in pieces for piece in row)
        sizes = np.array([row.size for row in encoding.rows])
        loss = float(nats.sum()) / tokens
        several = sum(len(row) > 1 for row in pieces)
        said = (f"{several} rows are longer than {window} tokens and were read in windows",) if several else ()
        return Verdict(
            judge=self.label,
            metric="bits_per_byte",
            metrics={
                "bits_per_byte": float(nats.sum() / math.log(2) / sizes.sum()),
                "loss": loss,
                "perplexity": math.exp(min(loss, 700.0)),
            },
            numbers=[row.number for row in encoding.rows],
            per_row={"bits_per_byte": (nats / math.log(2) / sizes).tolist(), "bytes": sizes.astype(float).tolist()},
            data=records.digest(),
            greater_is_better=False,
            left_out=encoding.left_out,
            notes=(*encoding.notes, *said),
        )


def _windows(ids: NDArray[np.int32], asked: NDArray[np.bool_], window: int) -> Iterator[Sequence]:
    """Pieces of at most ``window`` tokens that hold what is asked for, each token of it once."""
    done = 0
    while done < len(ids):
        end = min(len(ids), window if done == 0 else done + window // 2)
        start = max(0, end - window)
        judged = asked[start:end] & (np.arange(start, end) >= done)
        if judged.any():
            yield Sequence(ids[start:end], judged)
        done = end
