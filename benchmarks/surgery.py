"""Spectral Surgery on trained LoRAs: loss and score of rows held out of training, before and after, beside the control.

MiniLM on movie-review sentences, LoRA at its default fields, 100 steps of batch 16, three seeds. Usage, from the
repository's root; the runs are kept and not run again:

    python benchmarks/surgery.py [--seeds 3] [--steps 100] [--batches 8]

Writes docs/data/surgery.json and the table in docs/convert.md.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from publish import publish, setting

from subspace_tuning.convert.source import opened
from subspace_tuning.convert.surgery import POLICIES, Policy, surgery
from subspace_tuning.files.markdown import table
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run, trainer_of

RUNS = Path("runs/surgery")
BASE = {
    "model": "minilm",
    "task": "movie_reviews",
    "method": "lora",
    "eval_samples": 500,
    "max_length": 64,
    "batch_size": 16,
    "evaluate_every": "end",
    "save_every": "never",
}
TRAINED = "as it was trained"
PAGE, KEY = "docs/convert.md", "surgery"


def trained(seed: int, steps: int) -> Path:
    """The folder of a finished run."""
    where = RUNS / f"{steps}-steps" / f"seed-{seed}"
    run(make({**BASE, "max_steps": steps, "train_samples": 16 * steps, "seed": seed, "output": str(where)}))
    return where


def judged(folder: Path, model: Any) -> dict[str, float]:
    """Loss and accuracy on the rows that the run is judged by."""
    recipe = RunFolder(folder).recipe()
    trainer = trainer_of(recipe, RunFolder(folder), model, [])
    return {"loss": trainer.evaluate()["eval_loss"], "score": recipe.task_object().judge(trainer)["accuracy"]}


def after(folder: Path, policy: Policy, batches: int) -> dict[str, float]:
    source = opened(folder)
    with TemporaryDirectory() as place:
        surgery(folder, Path(place, "out"), "merged", policy, batches=batches)
        return judged(folder, type(source.make_base()).from_pretrained(Path(place, "out")))


def measured(seeds: int, steps: int, batches: int) -> dict[str, list[dict[str, float]]]:
    """Of each policy, loss and score seed by seed."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (TRAINED, *POLICIES)}
    for seed in range(seeds):
        folder = trained(seed, steps)
        found[TRAINED].append(judged(folder, opened(folder).load()))
        for name in POLICIES:
            found[name].append(after(folder, Policy(name, seed=seed), batches))
            print(seed, name, found[name][-1], flush=True)
    return found


def rows(found: dict[str, list[dict[str, float]]]) -> str:
    """Means, and of what surgery changed the mean difference and its spread over the seeds."""

    def row(name: str) -> tuple[str, ...]:
        told = [name if name == TRAINED else f"`{name}`"]
        for key, scale, form in (("loss", 1.0, ".4f"), ("score", 100.0, ".1f")):
            told.append(format(scale * mean(one[key] for one in found[name]), form))
            apart = [scale * (a[key] - b[key]) for a, b in zip(found[name], found[TRAINED], strict=True)]
            spread = f" ± {stdev(apart):{form}}" if len(apart) > 1 else ""
            told.append("" if name == TRAINED else f"{mean(apart):+{form}}{spread}")
        return tuple(told)

    return table(("policy", "loss", "change", "accuracy, %", "change"), map(row, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batches", type=int, default=8)
    given = parser.parse_args()
    found = measured(given.seeds, given.steps, given.batches)
    about = f"{given.steps} steps of batch 16, {given.seeds} seeds, {given.batches} batches looked at; 500 rows"
    publish(KEY, {"about": about, **setting(), "found": found}, PAGE, {KEY: f"{about}.\n\n{rows(found)}"})


if __name__ == "__main__":
    main()
