"""docs/choose.md: which method for what is needed, from what the methods can do and from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from subspace_tuning.files.markdown import table
from subspace_tuning.method.catalogue import Entry
from subspace_tuning.pages.choose_words import ENGLISH, Words
from subspace_tuning.study.statistics import finals, shares, unlearned

BEST = 5  # methods named for a need
CLEARLY = 0.08  # over the probe, in accuracy
CHEAP = 1.05  # times the floor
LEAN = 1.01  # times the bytes that the floor keeps for backward


class Share(NamedTuple):
    """Of full fine-tuning's average over the tasks of GLUE that were learned, with its interval of 95 %."""

    rank: int | None
    effect: float
    low: float
    high: float


class Row(NamedTuple):
    """A method, and what was measured of it."""

    entry: Entry
    score: dict[str, Any] | None
    step: dict[str, Any] | None
    share: Share | None = None

    @property
    def lead(self) -> float:
        """Its score, the least where there is none."""
        return self.score["score"] if self.score else float("-inf")

    @property
    def time(self) -> float | None:
        return self.step["time_ratio"] if self.step else None


def _score(row: Row, words: Words) -> str:
    return words.score.format(100 * row.lead, row.score["permille"]) if row.score else ""


def _share(row: Row, words: Words) -> str:
    assert row.share is not None
    rank = f"r = {row.share.rank}: " if row.share.rank else ""
    return f"{rank}{100 * row.share.effect:.1f} % [{100 * row.share.low:.1f}, {100 * row.share.high:.1f}]"


def _time(row: Row, words: Words) -> str:
    return f"{row.time:.2f}; {_score(row, words)}"


def _kept(row: Row, words: Words) -> str:
    assert row.step is not None
    return f"{row.step['saved_bytes_ratio']:.2f}; {_score(row, words)}"


class Need(NamedTuple):
    """What is needed, by its key in the words: whom it admits, who is first, and by what evidence."""

    key: str
    holds: Callable[[Row, float], bool]
    order: Callable[[Row], Any] = lambda r: -r.lead
    evidence: Callable[[Row, Words], str] = _score


NEEDS = [
    Need("score", lambda r, probe: r.score is not None),
    Need("tuned", lambda r, probe: r.share is not None, lambda r: -r.share.effect if r.share else 0.0, _share),
    Need("fewest", lambda r, probe: r.lead > probe + CLEARLY, lambda r: r.score["permille"] if r.score else 0.0),
    Need("fast", lambda r, probe: r.time is not None and r.time <= CHEAP, evidence=_time),
    Need("lean", lambda r, probe: r.step is not None and r.step["saved_bytes_ratio"] <= LEAN, evidence=_kept),
    Need("lora", lambda r, probe: r.entry.lora_export),
    Need("merged", lambda r, probe: r.entry.mergeable and not r.entry.lora_export),
    Need("quantised", lambda r, probe: r.entry.quantised_base and r.entry.sits_on == "weight"),
]


def choose_page(
    entries: Iterable[Entry],
    scores: Mapping[str, Any],
    steps: Mapping[str, Any],
    glue: pd.DataFrame | None = None,
    words: Words = ENGLISH,
) -> str:
    """The page; ``scores`` as benchmarks/method_table.py leaves them, ``steps`` as `subspace bench step` does, ``glue``
    the runs of docs/data/minilm_glue.csv."""
    of_method = {row["method"]: row for row in scores["results"]}
    of_step = {line["name"]: line for line in steps["contenders"] if line["source"] == "ours"}
    of_share = {} if glue is None else best_shares(glue)
    rows = [Row(e, of_method.get(e.name), of_step.get(e.name), of_share.get(e.name)) for e in entries]
    found = [(need, _best(need, rows, scores["probe"])) for need in NEEDS]
    needs = [(words.needs[need.key], _named(need, best, words)) for need, best in found if best]
    told = table(words.asked, [*needs, words.unknown])
    cells = (_cells(row, words) for row in sorted(rows, key=lambda r: -r.lead))
    return f"{words.head}{told}\n## {words.all}\n\n{table(words.header, cells)}"


def best_shares(glue: pd.DataFrame) -> dict[str, Share]:
    """Each method's, at the best of its ranks, on the tasks of which something was learned."""
    lost = {task for _, task in unlearned(glue)}
    found: dict[str, Share] = {}
    for row in shares(finals(glue[~glue["task"].isin(lost)])).sort_values("effect").itertuples():
        rank = None if pd.isna(row.r) else int(str(row.r))
        found[str(row.method)] = Share(rank, *(float(str(v)) for v in (row.effect, row.low, row.high)))
    return found


def _best(need: Need, rows: list[Row], probe: float) -> list[Row]:
    return sorted((r for r in rows if (r.score or r.share) and need.holds(r, probe)), key=need.order)[:BEST]


def _named(need: Need, best: list[Row], words: Words) -> str:
    return ", ".join(f"{_name(row, words)} ({need.evidence(row, words)})" for row in best)


def _cells(row: Row, words: Words) -> tuple[str, ...]:
    s, can = row.score, (row.entry.mergeable, row.entry.lora_export, row.entry.quantised_base)
    measured = (f"{s['permille']:.2f}", f"{100 * s['score']:.1f} ± {100 * s['spread']:.1f}") if s else ("", "")
    time = "" if row.time is None else f"{row.time:.2f}"
    share = "" if row.share is None else f"{100 * row.share.effect:.1f}"
    sits_on = words.sits_on.get(row.entry.sits_on, row.entry.sits_on)
    return (_name(row, words), *measured, share, time, *(words.yes if holds else "" for holds in can), sits_on)


def _name(row: Row, words: Words) -> str:
    return f"[`{row.entry.name}`]({words.root}methods.md#{row.entry.name})"
