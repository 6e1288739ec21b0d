"""Finds each demo contender's learning rate: the best of a small grid, judged by rows held out of the training data.

The rows by which the demo itself judges are never looked at. Usage, from the repository's root:

    python benchmarks/demo_learning_rates.py [--workers 2] [--seed 0] [--only 'lora(r=4)' ...]

Prints the grid and writes runs/demo-learning-rates/grid-seed0.json; finished runs are not run again. The rates in
src/subspace_tuning/data/demo.yaml are the winners.
"""

import argparse
import json
from pathlib import Path

from subspace_tuning.run.demo import Demo
from subspace_tuning.run.recipe import Recipe
from subspace_tuning.run.side_by_side import run_all

FOLDER = Path("runs/demo-learning-rates")
SENTENCES = 3200  # twice those of the demo, which is to be short
SCALING = [3e-2, 1e-2, 1e-1]
LOW_RANK = [3e-3, 1e-3, 2e-3]
GRID = {
    "full": [1e-4, 5e-5, 2e-4, 4e-4],
    "sam_parser": [1e-2, 3e-3, 3e-2, 1e-1],
    "ia3": SCALING,
    "ssl": SCALING,
    "ssb": [1e-2, 3e-2, 5e-3],
    "bitfit": [5e-3, 2e-3, 1e-2],
    "lora(r=4)": LOW_RANK,
    "lora(r=4)+mpc_o": LOW_RANK,
    "trilora(r=4)": LOW_RANK,
    "flora(r=4)": LOW_RANK,
    "ssb|lora(r=2)": LOW_RANK,
}


def candidates(seed: int, only: list[str]) -> list[Recipe]:
    """The first rate of every contender, then the second ones and so on: stopped early, the grid is still even."""
    contenders = [c for c in Demo.read().contenders if not only or c.recipe.method_label in only]
    pairs = [(place, c, rate) for c in contenders for place, rate in enumerate(GRID[c.recipe.method_label])]
    recipes = []
    for _, contender, rate in sorted(pairs, key=lambda pair: pair[0]):
        where = FOLDER / f"{contender.slug}-{rate:g}{f'-seed{seed}' if seed else ''}"
        change = {"learning_rate": rate, "seed": seed, "output": str(where), "train_samples": SENTENCES}
        recipes.append(contender.recipe.model_copy(update={**change, "hold_out": True, "eval_samples": 1000}))
    return recipes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="contenders, by method")
    given = parser.parse_args()
    recipes = candidates(given.seed, given.only)
    grid: dict[str, dict[str, float]] = {}
    for number, outcome in run_all(recipes, given.workers):
        label, rate = recipes[number].method_label, recipes[number].learning_rate
        if isinstance(outcome, Exception):
            print(f"{label:18} {rate:8g}  {outcome}", flush=True)
            continue
        print(f"{label:18} {rate:8g}  {outcome.score:.3f}  {outcome.seconds_per_step:.2f} s/step", flush=True)
        grid.setdefault(label, {})[f"{rate:g}"] = outcome.score
        (FOLDER / f"grid-seed{given.seed}.json").write_text(json.dumps(grid, indent=2))
    for label, scores in grid.items():
        best = max(scores, key=lambda rate: scores[rate])
        print(f"{label:18} best {best}: {scores[best]:.3f}   {scores}")


if __name__ == "__main__":
    main()
