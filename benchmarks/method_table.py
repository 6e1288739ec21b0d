"""Trains every method of the registry for a short run, beside full fine-tuning and a linear probe (the head alone).

The offline default model on the offline default data, with each method's default fields; the docs show the outcome.
Usage, from the repository's root:

    python benchmarks/method_table.py [--workers 2]          three seeds each: the table
    python benchmarks/method_table.py --seconds              on a quiet machine: the time of a step, one after the other
    make docs                                                docs/methods.md with the table

Methods that 100 steps leave below the probe are run for longer, with the probe beside them, rates searched at that
length; the docs have a table of it too:

    python benchmarks/method_table.py --steps 300 --rates --only head NAME ...
    python benchmarks/method_table.py --steps 300 --only NAME ...

Methods go by their own learning rates. Some of these are meant for far longer training; for the ones that were left at
chance, and for the probe that all are compared with, a small grid was searched, judged by rows held out of training:

    python benchmarks/method_table.py --rates --only NAME ... [--factors 3 10 30]

--only runs some methods, the others keep their published rows; --steps and --seeds make it smaller, --folder writes it
elsewhere. Finished runs are not run again, so an interrupted table goes on where it stopped. Writes
docs/data/method_table.json (and method_rates.json), with the number of steps in the name where it is not 100.
"""

import argparse
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from publish import save

from subspace_tuning import METHODS
from subspace_tuning.docs import SCORES, SEARCHED, measured
from subspace_tuning.files import assets
from subspace_tuning.run.folder import Result
from subspace_tuning.run.recipe import FULL, HEAD, Recipe, make
from subspace_tuning.run.side_by_side import cores, run_all

RUNS = Path("runs/method-table")
BATCH = 16
BASE = {
    "model": "minilm",
    "task": "movie_reviews",
    "eval_samples": 500,
    "max_length": 64,
    "batch_size": BATCH,
    "evaluate_every": "end",
    "save_every": "never",
}
GRID = (3.0, 10.0, 30.0)  # times the method's own learning rate, which was too low after so few steps
RATES, TABLE = "method_rates", Path(SCORES).stem
GRID_SEED = 17  # not one of the table's
STEPS = 100
TIMED = 12  # steps


def recipe_of(name: str, given: Namespace, **changes: Any) -> Recipe:
    """The run of one method, where RUNS says."""
    about = "-".join(f"{key}-{value:g}" for key, value in changes.items() if key in ("learning_rate", "seed"))
    where = RUNS / f"{given.steps}-steps" / f"{name}-{about}"
    sizes = {"train_samples": BATCH * given.steps, "max_steps": given.steps}
    return make({**BASE, **sizes, "method": name, "output": str(where), **changes})


def place(folder: Path, stem: str, steps: int) -> Path:
    """The file for runs of that many steps."""
    return folder / (f"{stem}.json" if steps == STEPS else f"{stem}_{steps}.json")


def rates_in(path: Path) -> dict[str, float]:
    """The best rates that --rates has found; without it none, and methods keep their own."""
    return json.loads(path.read_text())["rates"] if path.is_file() else {}


def judged(name: str, seed: int, rates: dict[str, float], given: Namespace) -> Recipe:
    """A method's run for the table."""
    return recipe_of(name, given, seed=seed, **({"learning_rate": rates[name]} if name in rates else {}))


def run(wanted: list[Recipe], workers: int | None, *, again: bool = False) -> Iterator[tuple[Recipe, Result | None]]:
    """The recipes with their results, None for one that failed, told as they end."""
    for count, (number, outcome) in enumerate(run_all(wanted, workers, again=again), 1):
        failed = isinstance(outcome, Exception)
        told = outcome if failed else f"{outcome.score:.3f}  {outcome.seconds_per_step:.2f} s/step"
        print(f"{count:3}/{len(wanted)}  {Path(wanted[number].output).name:40} {told}", flush=True)
        yield wanted[number], None if failed else outcome


def find_rates(names: list[str], given: Namespace) -> None:
    """Each method's best rate of a small grid; the rows that the table is judged by are not looked at."""
    path = place(given.folder, RATES, given.steps)
    found: dict[str, dict[str, float]] = json.loads(path.read_text())["grid"] if path.is_file() else {}
    grid = {name: make({**BASE, "method": name}).resolved().learning_rate for name in names}
    change = {"seed": GRID_SEED, "hold_out": True}
    wanted = [
        recipe_of(n, given, learning_rate=float(f"{f * rate:.1g}"), **change)
        for f in given.factors
        for n, rate in grid.items()
    ]
    for recipe, result in run(wanted, given.workers):
        if result is not None:
            found.setdefault(recipe.method, {})[f"{recipe.learning_rate:g}"] = result.score
    best = {name: float(max(scores, key=lambda rate: scores[rate])) for name, scores in sorted(found.items())}
    about = f"Best of a small grid after {given.steps} steps, judged by rows held out of training, seed {GRID_SEED}."
    save(path, {"about": about, "rates": best, "grid": found})


def make_table(names: list[str], given: Namespace) -> None:
    searched = place(given.folder, RATES, given.steps)
    rates = rates_in(searched)
    wanted = [judged(name, seed, rates, given) for seed in range(given.seeds) for name in names]
    ended: dict[str, dict[int, Result]] = {}
    for recipe, result in run(wanted, given.workers):
        if result is not None:
            ended.setdefault(recipe.method, {})[recipe.seed] = result
    results = {name: [found[seed] for seed in sorted(found)] for name, found in ended.items()}
    place_of_table = place(given.folder, TABLE, given.steps)
    rows = {r["method"]: r for r in published(place_of_table)}
    rows |= {n: row(n, found) | {"searched": n in rates} for n, found in results.items()}
    if HEAD not in rows or not results:
        raise SystemExit("the linear probe or all runs failed: there is nothing to compare")
    some, command = next(iter(results.values()))[0], "python benchmarks/method_table.py"
    command += "" if given.steps == STEPS else f" --steps {given.steps}"
    about = (
        f"{given.steps} steps of batch {BATCH} on movie-review sentences, MiniLM ({some.total / 1e6:.1f} M weights), "
        f"{BASE['eval_samples']} sentences to judge by: {some.metric} in %, mean and standard deviation over "
        f"{given.seeds} seeds. `{HEAD}` is the linear probe: the head alone. Default fields and own learning rates; "
        f"a rate with {SEARCHED} is the best of two or three by rows held out of training ({searched.name} beside): "
        "for the probe, and for methods whose own rate left them at chance after so few steps. "
        f"Made by `{command}`."
    )
    table = {"about": about, "metric": some.metric, "probe": rows[HEAD]["score"], "versions": some.versions}
    table["results"] = sorted(rows.values(), key=lambda r: -r["score"])
    table["failed"] = sorted(set(names) - set(rows))
    keep_seconds(table, place_of_table)
    save(place_of_table, table)
    print(measured(table))


def published(path: Path) -> list[dict[str, Any]]:
    """The rows of the table before: methods that are not run again keep theirs."""
    return json.loads(path.read_text())["results"] if path.is_file() else []


def keep_seconds(table: dict[str, Any], path: Path) -> None:
    """Of the table before, what --seconds has measured."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    known = {row["method"]: row["seconds_per_step"] for row in published(path)}
    for row in table["results"]:
        row["seconds_per_step"] = known.get(row["method"])
    if "timed" in before:
        table["timed"] = before["timed"]


def row(name: str, found: list[Result]) -> dict[str, Any]:
    scores = [r.score for r in found]
    return {
        "method": name,
        "category": found[0].category,
        "score": mean(scores),
        "spread": stdev(scores) if len(scores) > 1 else 0.0,
        "scores": scores,
        "trainable": found[0].trainable,
        "permille": found[0].permille,
        "seconds_per_step": None,
        "learning_rate": found[0].learning_rate,
    }


def time_steps(names: list[str], given: Namespace) -> None:
    """Seconds a step, written into the table: one method after the other, with all cores to itself."""
    path = place(given.folder, TABLE, given.steps)
    table = json.loads(path.read_text())
    rows = {row["method"]: row for row in table["results"]}
    given.steps = TIMED
    wanted = [recipe_of(name, given, seed=0, eval_samples=BATCH) for name in names if name in rows]
    for recipe, result in run(wanted, 1, again=True):
        if result is not None:
            rows[recipe.method]["seconds_per_step"] = result.seconds_per_step
    table["timed"] = f"Seconds a step: the mean of {TIMED - 1} steps on {cores()} cores, one method after the other."
    save(path, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", action="store_true", help="find learning rates instead")
    parser.add_argument("--seconds", action="store_true", help="time the steps of the table's methods instead")
    parser.add_argument("--only", nargs="*", default=[], help="methods; without it all")
    parser.add_argument(
        "--factors", type=float, nargs="*", default=GRID, help="of --rates, times each method's own rate"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=Path(SCORES).parent)
    given = parser.parse_args()
    assets.default_model(), assets.movie_reviews()  # fetched once, before runs start side by side
    names = [HEAD, FULL, *sorted(METHODS)]
    names = (
        [name for name in names if name in given.only or (name == HEAD and not given.rates)] if given.only else names
    )
    work = find_rates if given.rates else time_steps if given.seconds else make_table
    work(names, given)


if __name__ == "__main__":
    main()
