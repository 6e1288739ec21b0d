"""The short list as files: a recipe for each, LoRA with its ranks by water-filling, and a sweep that tests them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from subspace_tuning.advise.candidates import Candidate
from subspace_tuning.files.aside import write
from subspace_tuning.run.recipe import make
from subspace_tuning.sweep.recipe import AXES
from subspace_tuning.sweep.recipe import make as make_sweep

SEEDS, TUNING_SEED, FACTORS = [0, 1, 2], 17, [0.3, 1, 3]
ONCE = {"evaluate_every": "end", "save_every": "never"}


def recipe_files(
    given: Mapping[str, Any],
    short: Sequence[Candidate],
    reasons: Mapping[str, Sequence[str]],
    lora: Mapping[str, Any],
    pattern: Mapping[str, Any],
) -> dict[str, str]:
    """File name -> content. ``given``: fields of the runs; ``lora``, ``pattern``: LoRA at one rank, and with many."""
    made = {}
    for place, c in enumerate(short, 1):
        told = [f"{place}. {c.told}", *reasons[c.entry.name]]
        made[f"advise-{place}-{c.entry.name}.yaml"] = _file(told, {**given, "method": c.data})
    if pattern["rank_pattern"]:
        told = ["LoRA with the ranks that hold most of the gradient's energy at this budget (water-filling)"]
        made["advise-rank-pattern.yaml"] = _file(told, {**given, "method": dict(lora), **pattern})
    made["advise-sweep.yaml"] = _sweep(given, short, lora)
    return made


def _file(told: Sequence[str], fields: dict[str, Any]) -> str:
    make(fields)  # raises for what is no recipe
    return "".join(f"# {line}\n" for line in told) + _yaml(fields)


def _sweep(given: Mapping[str, Any], short: Sequence[Candidate], lora: Mapping[str, Any]) -> str:
    """Every contender with as many tuning runs as any other; LoRA first."""
    others = [c.data for c in short if c.data != lora]
    base = {key: value for key, value in given.items() if key not in (*AXES, "learning_rate")}
    fields = {
        "output": "runs/advise",
        "base": {**ONCE, **base},
        "models": [given["model"]],
        "tasks": [given["task"]],
        "methods": [dict(lora), *others],
        "seeds": SEEDS,
        "tuning": {"factors": FACTORS, "seeds": [TUNING_SEED]},
    }
    make_sweep(fields)
    return "# The short list beside LoRA, each with its own tuned learning rate.\n" + _yaml(fields)


def _yaml(fields: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True)


def write_all(files: Mapping[str, str], folder: Path) -> list[Path]:
    for name, content in files.items():
        write(folder / name, content)
    return [folder / name for name in files]
