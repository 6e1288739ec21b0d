"""docs/choose.md: which method for what is needed, from what the methods can do and from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from subspace_tuning.files.markdown import table
from subspace_tuning.method.catalogue import Entry

BEST = 5  # methods named for a need
CLEARLY = 0.08  # over the probe, in accuracy
CHEAP = 1.05  # times the floor
HEAD = """\
<!-- made by `make docs` from docs/data/method_table.json, docs/data/step.json and the registry -->
# Choose a method

No method is best at everything. What each can do follows from its equation; what it costs and how far it comes was
measured. Scores are accuracies on held-out movie reviews after a short training of MiniLM, mean and standard deviation
of three seeds ([all of it](methods.md#measured)); time is that of a training step over the floor, below which no
fine-tuning can come ([how close to the floor](floor.md)). Scores within one another's spread are not to be told
apart, and other data may rank them otherwise: try two or three by [a sweep](sweep.md) with equal tuning.
`subspace advise` [picks three](advise.md) for a model, its data and what is needed.

**In doubt**: `lora` when others must load it, `ssb` when there are many adapters or little memory, full fine-tuning
when nothing else counts but the score. How much a method makes a model forget, `retention:` in a recipe tells for your
model and data.

"""


class Row(NamedTuple):
    """A method, and what was measured of it."""

    entry: Entry
    score: dict[str, Any] | None
    step: dict[str, Any] | None

    @property
    def lead(self) -> float:
        """Its score, the least where there is none."""
        return self.score["score"] if self.score else float("-inf")

    @property
    def time(self) -> float | None:
        return self.step["time_ratio"] if self.step else None


Need = tuple[str, Callable[[Row, float], bool], Callable[[Row], Any]]
NEEDS: list[Need] = [
    ("the highest score after a short training", lambda r, probe: True, lambda r: -r.lead),
    (
        f"fewest parameters, and {100 * CLEARLY:.0f} points over the probe",
        lambda r, probe: r.lead > probe + CLEARLY,
        lambda r: r.score["permille"] if r.score else 0.0,
    ),
    (
        f"a step within {100 * (CHEAP - 1):.0f} % of the floor",
        lambda r, probe: r.time is not None and r.time <= CHEAP,
        lambda r: -r.lead,
    ),
    (
        "exactly a LoRA of some rank, for vLLM and others that load LoRAs",
        lambda r, probe: r.entry.lora_export,
        lambda r: -r.lead,
    ),
    (
        "merged, so that it costs nothing afterwards, and no LoRA's size on disk",
        lambda r, probe: r.entry.mergeable and not r.entry.lora_export,
        lambda r: -r.lead,
    ),
    (
        "a quantised base, which stays as it is",
        lambda r, probe: r.entry.quantised_base and r.entry.sits_on == "weight",
        lambda r: -r.lead,
    ),
]


def choose_page(entries: Iterable[Entry], scores: Mapping[str, Any], steps: Mapping[str, Any]) -> str:
    """The page; ``scores`` as benchmarks/method_table.py leaves them, ``steps`` as `subspace bench step` does."""
    of_method = {row["method"]: row for row in scores["results"]}
    of_step = {line["name"]: line for line in steps["contenders"] if line["source"] == "ours"}
    rows = [Row(e, of_method.get(e.name), of_step.get(e.name)) for e in entries]
    needs = table(("what is needed", "methods, the best first"), (_need(n, rows, scores["probe"]) for n in NEEDS))
    header = ("method", "per mille", "score", "time", "merges", "LoRA", "quantised", "sits on")
    return f"{HEAD}{needs}\n## All of them\n\n{table(header, map(_cells, sorted(rows, key=lambda r: -r.lead)))}"


def _need(need: Need, rows: list[Row], probe: float) -> tuple[str, str]:
    told, holds, order = need
    found = sorted((r for r in rows if r.score and holds(r, probe)), key=order)[:BEST]
    return told, ", ".join(f"{_name(r)} ({_evidence(r)})" for r in found)


def _evidence(row: Row) -> str:
    assert row.score is not None
    return f"{100 * row.score['score']:.1f} at {row.score['permille']:.2g} per mille"


def _cells(row: Row) -> tuple[str, ...]:
    s, can = row.score, (row.entry.mergeable, row.entry.lora_export, row.entry.quantised_base)
    measured = (f"{s['permille']:.2f}", f"{100 * s['score']:.1f} ± {100 * s['spread']:.1f}") if s else ("", "")
    time = "" if row.time is None else f"{row.time:.2f}"
    return (_name(row), *measured, time, *("yes" if holds else "" for holds in can), row.entry.sits_on)


def _name(row: Row) -> str:
    return f"[`{row.entry.name}`](methods.md#{row.entry.name})"
