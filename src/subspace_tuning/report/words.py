"""A study in a few sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from subspace_tuning.run.recipe import FULL, HEAD
from subspace_tuning.study.claims import FAILS, HOLDS, OPEN, Verdict
from subspace_tuning.study.retention import FORGETS, GAINS, IMPROVES
from subspace_tuning.study.statistics import unlearned

NEAR = 0.99  # of full fine-tuning
FEW = 3  # seeds, below which an interval says little


def sentences(runs: pd.DataFrame, cells: pd.DataFrame, verdicts: Sequence[Verdict]) -> list[str]:
    """What was run, how it came out on each model, what the claims came to, and how far to trust it."""
    told = [_what(runs)]
    for model in dict.fromkeys(cells["model"]):
        over = cells[(cells["model"] == model) & (cells["task"] == "") & cells["complete"]]
        if not over.empty:
            told.append(_outcome(model, over))
    return [*told, *_not_learned(runs), _judged(verdicts), _trust(cells)]


def _not_learned(runs: pd.DataFrame) -> list[str]:
    places = [f"{task} with {model}" for model, task in unlearned(runs)]
    if not places:
        return []
    return [
        "Full fine-tuning does not beat the linear probe and chance beyond the noise of seeds on "
        f"{', '.join(places)}: scores there say little of methods."
    ]


def _judged(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(v.verdict if v.runs else "not run" for v in verdicts)
    verbs = {HOLDS: "borne out", FAILS: "not borne out", OPEN: "open at this number of runs", "not run": "not run"}
    parts = [f"{counts[verdict]} {verb}" for verdict, verb in verbs.items() if counts[verdict]]
    return f"Of the paper's {_count(len(verdicts), 'claim')}: {', '.join(parts)}."


def forgetting(found: pd.DataFrame) -> list[str]:
    """Of each retention, who gains and who forgets."""
    told = []
    for (model, name), own in found.groupby(["model", "judgement"]) if len(found) else ():
        gain = own.loc[own["target"] == GAINS, "label"].tolist()
        parts = [f"{len(gain)} of {_count(len(own), 'method')} gain on the target" + _listed(gain)]
        for fate in (FORGETS, IMPROVES):
            if who := own.loc[own["retention"] == fate, "label"].tolist():
                parts.append(f"{len(who)} {fate.removesuffix('s')}{'s' * (len(who) == 1)}" + _listed(who))
        if open_ones := int((own["retention"] == OPEN).sum()):
            parts.append(f"of {open_ones} one cannot tell what was forgotten")
        told.append(f"Beside the base, {name.replace('_', ' ')} on {model}: {'; '.join(parts)}.")
    return told


def _listed(labels: Sequence[str]) -> str:
    return f" ({', '.join(labels)})" if labels else ""


def unfinished(standing: Mapping[str, Any]) -> list[str]:
    """What is still to come, or will not."""
    told = []
    if standing["open"] > 0:
        told.append(f"{_count(standing['open'], 'run')} not finished yet.")
    if standing["failed"]:
        told.append(f"{_count(len(standing['failed']), 'run')} failed; what they said is at the end of the page.")
    return told


def _what(runs: pd.DataFrame) -> str:
    final = runs[runs["kind"] == "final"]
    parts = {"method": "method", "label": "setting", "task": "task", "model": "model", "seed": "seed"}
    counts = [_count(final[column].nunique(), name) for column, name in parts.items()]
    settings = f"{counts[0]} in {counts[1]} of method and rank"
    tuned = len(runs) - len(final)
    extra = f", and {_count(tuned, 'run')} that chose learning rates" if tuned else ""
    return f"{_count(len(final), 'finished run')}{extra}: {settings}, on {counts[2]}, {counts[3]}, {counts[4]}."


def _outcome(model: str, over: pd.DataFrame) -> str:
    tasks = int(over["tasks"].iloc[0])
    scope = "" if tasks == 1 else f" on average over {tasks} tasks"
    order = over.sort_values("mean", ascending=False)
    full, others = order[order["method"] == FULL], order[~order["method"].isin([FULL, HEAD])]
    told = []
    if not full.empty:
        told.append(f"full fine-tuning comes to {_score(full.iloc[0])}{scope}")
    if not others.empty:
        best = others.iloc[0]
        told.append(
            f"the best method, {best['label']}, to {_score(best)} with {_permille(best)}{'' if told else scope}"
        )
    near = others[others["share"] >= NEAR].sort_values("permille")
    if not near.empty:
        least = near.iloc[0]
        told.append(
            f"the fewest parameters that reach {NEAR:.0%} of full fine-tuning are {least['label']}'s, with "
            f"{_permille(least)} ({least['share']:.1%} of it)"
        )
    elif not full.empty and not others.empty:
        told.append(f"no method reaches {NEAR:.0%} of full fine-tuning")
    return f"On {model}, {'; '.join(told)}."


def _trust(cells: pd.DataFrame) -> str:
    each = cells[cells["task"] != ""]
    few = int((each["n"] < FEW).sum())
    told = "Intervals are 95 % bootstrap intervals over seeds; they do not speak of other data or other models."
    if not few:
        return told
    return f"{told} {few} of {len(each)} cells rest on fewer than {FEW} seeds: too few runs to tell small differences."


def _score(cell: pd.Series) -> str:
    interval = "" if pd.isna(cell["low"]) else f" ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})"
    return f"{100 * cell['mean']:.1f}{interval}"


def _permille(cell: pd.Series) -> str:
    return f"{cell['permille']:.2f} per mille of the parameters"


def _count(n: int, name: str) -> str:
    return f"{n:,} {name}{'' if n == 1 else 's'}"
