"""Optimisers that know the factors, compared at equal tuning: LoRA on MiniLM and on SmolLM2, into docs/optimisers.md.

    python benchmarks/optimisers.py [--folder runs/optimisers] [--models minilm smollm2] [--steps 100]

Each optimiser gets four learning rates, a factor of three apart, judged by rows held out of the training data with a
seed that no final run has, and then three seeds at the best one. Finished runs are read, so that the same command goes
on after a cut; the table says how many runs there are.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.run.folder import Result
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

PAGE, MARKER = Path("docs/optimisers.md"), "<!-- optimisers -->"
RATES = {  # the lowest of four
    "adamw": 1e-4,
    "lora_plus": 3e-5,
    "riemannian": 1e-4,
    "lora_rite": 1e-4,
    "lora_pro": 1e-5,
    "muon": 1e-4,
}
FACTORS, TUNING_SEED, SEEDS, EVAL_SAMPLES = (1, 3, 9, 27), 17, (0, 1, 2), 500
TASKS = {
    "minilm": {"model": "minilm", "task": "movie_reviews", "train_samples": 1600, "batch_size": 16, "max_length": 64},
    "smollm2": {"model": "smollm2", "task": "conversations", "train_samples": 400, "batch_size": 4, "max_length": 256},
}


def trained(model: str, optimizer: str, rate: float, seed: int, hold_out: bool, given: argparse.Namespace) -> Result:
    kind = "tuning" if hold_out else "final"
    words = {
        **TASKS[model],
        "method": {"name": "lora", "r": 8},
        "optimizer": optimizer,
        "learning_rate": rate,
        "seed": seed,
        "eval_samples": EVAL_SAMPLES,
        "hold_out": hold_out,
        "max_steps": given.steps,
        "evaluate_every": "end",
        "save_every": "never",
        "output": str(given.folder / f"{model}-{optimizer}-{rate:g}-{seed}-{kind}-{given.steps}"),
    }
    return run(make(words))


def rows(model: str, given: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A row an optimiser: the rate that tuning took, where it lies in its grid, and the scores of the final runs."""
    for optimizer, lowest in RATES.items():
        rates = [lowest * factor for factor in FACTORS]
        tuned = [trained(model, optimizer, rate, TUNING_SEED, True, given).score for rate in rates]
        best = tuned.index(max(tuned))
        final = [trained(model, optimizer, rates[best], seed, False, given) for seed in SEEDS]
        scores = [result.score for result in final]
        seconds = statistics.median(result.seconds_per_step or 0.0 for result in final)
        spread = f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f}"
        yield f"`{optimizer}`", f"{rates[best]:g} ({best + 1} of {len(rates)})", spread, f"{1000 * seconds:.0f}"
        print(model, optimizer, rates[best], scores, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/optimisers"))
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    parts = []
    for model in given.models:
        header = ("optimiser", "learning rate", "score", "ms a step")
        parts.append(f"{model}, LoRA of rank 8, {given.steps} steps, mean ± standard deviation over three seeds:\n")
        parts.append(table(header, list(rows(model, given))))
    page = PAGE.read_text(encoding="utf-8")
    write(PAGE, with_table(page, "\n" + "\n".join(parts) + "\n", MARKER, str(PAGE)))


if __name__ == "__main__":
    main()
