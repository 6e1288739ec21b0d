"""What a report tells of a study, as plain data: runs by the column, cells with intervals, ranks, verdicts, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_tuning.errors import BadInput
from subspace_tuning.report import configs, curves, words
from subspace_tuning.run.picture import COLOURS
from subspace_tuning.run.recipe import FULL
from subspace_tuning.study.claims import verdicts
from subspace_tuning.study.ranking import ranking
from subspace_tuning.study.retention import judgements, told
from subspace_tuning.study.statistics import ARM, Arm, averages, finals, shares, summary
from subspace_tuning.sweep.results import KEPT
from subspace_tuning.version import VERSION

OVER_TASKS = ""  # in place of a task: the mean over all
SHOWN = [
    *("run", "label", "method", "r", "task", "model", "seed", "metric", "score", "learning_rate", "trainable"),
    *("permille", "category", "steps", "seconds", "seconds_per_step", "peak_memory_mb", "device", "kind"),
]
DIGITS = 5


def arranged(runs: pd.DataFrame) -> pd.DataFrame:
    """The frame of `sweep.results.gather` as the page has it: final runs, then those of a tuning, named for their arms.

    The label is that of the arm, ``lora r=4``. Raises BadInput where no run is finished.
    """
    if runs.empty:
        raise BadInput("no finished run to report; run some first: `subspace train` or `subspace sweep`")
    if not (runs["kind"] == "final").any():
        raise BadInput(
            f"no final run to report yet, {len(runs)} runs of a tuning; `subspace sweep` goes on to the final ones"
        )
    return _named(pd.concat([finals(runs), runs[runs["kind"] != "final"]], ignore_index=True))


def tell(
    runs: pd.DataFrame,
    title: str,
    made: str,
    standing: dict | None = None,
    floor: dict | None = None,
    pictures: Sequence[dict] = (),
) -> dict[str, Any]:
    """The data of the page, of arranged runs.

    standing: how many runs are open, and run and error of those that failed. floor: what `subspace bench step --output`
    wrote. pictures: title, alt and src (a data: address) of each.
    """
    standing = standing or {"open": 0, "failed": []}
    cells, found, forgetting = _cells(runs), verdicts(runs), _forgetting(runs)
    return {
        "title": title,
        "made": f"{made} by subspace-tuning {VERSION}",
        "words": [*words.sentences(runs, cells, found), *words.forgetting(forgetting), *words.unfinished(standing)],
        "runs": columns(runs[[*SHOWN, *(name for name in runs if name.startswith(("after_", "change_", KEPT)))]]),
        "cells": columns(cells),
        "forgetting": {"names": judgements(_final(runs)), "rows": columns(forgetting)},
        "ranks": {model: asdict(ranking(of_model)) for model, of_model in _final(runs).groupby("model")},
        "claims": [asdict(verdict) for verdict in found],
        "colours": COLOURS,
        "floor": _beside_floor(floor),
        "pictures": list(pictures),
        "failed": standing["failed"],
    }


def behind_clicks(folder: Path, runs: pd.DataFrame) -> dict[str, Any]:
    """Configs and learning curves of arranged runs whose folders stand in the given one."""
    places = [folder / run for run in runs["run"]]
    return {
        "configs": configs.fold(_text(place / "config.yaml") for place in places),
        "curves": curves.fold(zip((place / "metrics.jsonl" for place in places), runs["metric"], strict=True)),
    }


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Column by column: numbers rounded, texts that repeat as codes into their values."""
    told: dict[str, Any] = {}
    for name, column in frame.items():
        if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            codes, values = pd.factorize(column)
            repeats = len(values) < len(column)
            told[str(name)] = {"values": values.tolist(), "codes": codes.tolist()} if repeats else column.tolist()
        elif pd.api.types.is_integer_dtype(column):
            told[str(name)] = [None if pd.isna(x) else int(x) for x in column]
        else:
            told[str(name)] = [None if pd.isna(x) else float(f"{x:.{DIGITS}g}") for x in column]
    return told


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the name of their arm, ``lora r=4``, as label."""
    names = [_name(method, r) for method, r in zip(runs["method"], runs["r"], strict=True)]
    return runs.assign(label=names)


def _name(method: str, r: Any) -> str:
    return Arm("", method, None if pd.isna(r) else int(r)).name


def _final(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["kind"] == "final"]


def _cells(runs: pd.DataFrame) -> pd.DataFrame:
    """model, task, label and what is known of the arm there; the mean over tasks where the task is left empty."""
    share = shares(runs).rename(columns={"effect": "share", "low": "share_low", "high": "share_high"})
    share = share.drop_duplicates(ARM)[[*ARM, "share", "share_low", "share_high"]]
    over = averages(runs).assign(task=OVER_TASKS).merge(share, how="left")
    each = summary(runs).assign(complete=True).drop(columns="std")
    cells = _named(pd.concat([over, each], ignore_index=True))
    of_arm = _final(runs).drop_duplicates(["model", "label"])
    return cells.merge(of_arm[["model", "label", "category", "permille", "trainable"]], on=["model", "label"])


def _forgetting(runs: pd.DataFrame) -> pd.DataFrame:
    """What each arm gains and forgets beside the base; none where no retention was judged."""
    found = told(_final(runs))
    if found.empty:
        return pd.DataFrame({"model": [], "label": [], "category": []})
    of_arm = _final(runs).drop_duplicates(["model", "label"])
    return _named(found).merge(of_arm[["model", "label", "category"]], on=["model", "label"])


def _beside_floor(bench: dict | None) -> dict | None:
    """Of a measurement of steps: full fine-tuning and our methods beside the floor."""
    if bench is None:
        return None
    kept = ("name", "time_ratio", "time_low", "time_high")
    try:
        lines = [line for line in bench["contenders"] if line["source"] in ("ours", FULL)]
        return {"device": bench["device"], "lines": [{key: line[key] for key in kept} for line in lines]}
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"the floor's file lacks {error}; expected what `subspace bench step --output FILE` writes"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
