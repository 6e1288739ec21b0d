"""Four adapters trained side by side over one frozen model, beside one after the other.

    python benchmarks/packed_runs.py [--batch 4] [--steps 40] [--rounds 3] [--dry]

MiniLM on the movie reviews, four methods; both ways in turn, each run in full (model loading and judging included).
Medians over rounds. Writes docs/data/packed_runs.json and the table of docs/packed.md, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from publish import publish, setting, told

from subspace_tuning.files.markdown import table
from subspace_tuning.run.packed import train_packed
from subspace_tuning.run.recipe import Recipe, make
from subspace_tuning.run.train import run

METHODS = ("ssb", "lora", "ia3", "dora")
COMMON = {"evaluate_every": "end", "save_every": "never", "eval_samples": 64, "max_length": 64}


def recipes(folder: Path, batch: int, steps: int) -> list[Recipe]:
    values = {**COMMON, "batch_size": batch, "max_steps": steps}
    return [make({**values, "method": m, "seed": i, "output": str(folder / m)}) for i, m in enumerate(METHODS)]


def seconds(way: Any, made: list[Recipe]) -> tuple[float, float]:
    """Of the whole, and of its steps alone."""
    began = time.perf_counter()
    results = way(made)
    whole = time.perf_counter() - began
    steps = [r.seconds_per_step * r.steps for r in results]
    return whole, max(steps) if way is train_packed else sum(steps)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"batch": 4, "steps": 40, "rounds": 3}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--dry", action="store_true", help="print the figures, write nothing")
    chosen = options.parse_args()
    where = {**setting(), "batch": chosen.batch, "steps": chosen.steps, "methods": METHODS}
    ways = {"packed": train_packed, "one after the other": lambda made: [run(recipe) for recipe in made]}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(seconds(way, recipes(Path(folder), chosen.batch, chosen.steps)))
    lines = [
        {"way": name, "seconds": median(w for w, _ in t), "steps_seconds": median(s for _, s in t)}
        for name, t in times.items()
    ]
    data = {"setting": where, "results": lines, "gain": lines[1]["seconds"] / lines[0]["seconds"]}
    print(json.dumps(data, indent=2))
    if not chosen.dry:
        rows = ((x["way"], f"{x['seconds']:.1f} s", f"{x['steps_seconds']:.1f} s") for x in lines)
        made = table(("four adapters", "in all", "steps alone"), rows)
        publish("packed_runs", data, "docs/packed.md", {"packed": made + told(where)})


if __name__ == "__main__":
    main()
