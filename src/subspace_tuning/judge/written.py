"""Metrics of what a model has written, against the answers of the rows; the greater the better."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from subspace_tuning.errors import BadInput, nearest

Texts = Sequence[str]
MARK = "####"  # before the final number of GSM8K's answers
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
INSTALL = "pip install 'subspace-tuning[llm]'"


class Scored(NamedTuple):
    """Of all rows, and of each."""

    value: float
    rows: list[float]


def mean(rows: list[float]) -> Scored:
    return Scored(float(np.mean(rows)), rows)


def exact_match(written: Texts, answers: Texts) -> Scored:
    """1 where both say the same, blanks at the ends and in a row aside."""
    return mean([float(a.split() == b.split()) for a, b in zip(written, answers, strict=True)])


def number_match(written: Texts, answers: Texts) -> Scored:
    """1 where the last numbers are equal: behind ``####``, as in GSM8K, where that stands. 1,000 is 1000.0."""
    wanted = [_last_number(answer) for answer in answers]
    for row, number in enumerate(wanted):
        if number is None:
            raise BadInput(f"number_match does not fit: there is no number in the answer {answers[row]!r}")
    return mean([float(_last_number(text) == number) for text, number in zip(written, wanted, strict=True)])


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text.rpartition(MARK)[2]) or _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def _rouge(name: str) -> Callable[[Texts, Texts], Scored]:
    def rouge(written: Texts, answers: Texts) -> Scored:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise BadInput(f"the metric {name} needs the package rouge-score: {INSTALL}") from error
        scorer = RougeScorer([name])
        return mean([scorer.score(b, a)[name].fmeasure for a, b in zip(written, answers, strict=True)])

    rouge.__doc__ = f"F1 of {name} (Lin, 2004), 0 to 1, by Google's rouge-score without stemming."
    return rouge


def chrf(written: Texts, answers: Texts) -> Scored:
    """chrF (Popovic, WMT 2015) of the whole, and of each row, 0 to 100, as sacrebleu computes it."""
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise BadInput(f"the metric chrf needs the package sacrebleu: {INSTALL}") from error
    measure = CHRF()
    each = [measure.sentence_score(a, [b]).score for a, b in zip(written, answers, strict=True)]
    return Scored(measure.corpus_score(list(written), [list(answers)]).score, each)


METRICS: dict[str, Callable[[Texts, Texts], Scored]] = {
    "exact_match": exact_match,
    "number_match": number_match,
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
    "chrf": chrf,
}


def known(names: Sequence[str]) -> None:
    """Raises ValueError for a metric that there is not."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"there is no metric {name!r}: {nearest(name, METRICS)}known are {', '.join(METRICS)}")
