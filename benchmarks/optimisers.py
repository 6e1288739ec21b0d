"""Optimisers that know the factors, compared at equal tuning: LoRA on MiniLM and on SmolLM2, into docs/optimisers.md.

    python benchmarks/optimisers.py [--models minilm smollm2] [--minutes 30] [--only adamw muon]

Each optimiser gets four learning rates, a factor of three apart, and more beyond an edge where the best is at one,
judged by rows held out of the training data with a seed that no final run has, and then three seeds at the best one.
What came of each run is kept in docs/data/optimisers.json as it ends, so the same command goes on after a cut; with
--minutes it ends by itself; the table has the optimisers whose runs are all there.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from publish import save

from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

PAGE, MARKER, KEPT = Path("docs/optimisers.md"), "<!-- optimisers -->", Path("docs/data/optimisers.json")
RATES = {  # the lowest of four
    "adamw": 1e-4,
    "lora_plus": 3e-5,
    "riemannian": 1e-4,
    "lora_rite": 1e-4,
    "lora_pro": 1e-5,
    "muon": 1e-4,
}
FACTORS, TUNING_SEED, SEEDS = (1, 3, 9, 27), 17, (0, 1, 2)
MORE = 3  # rates at most, beyond an edge
TASKS = {
    "minilm": {"model": "minilm", "task": "movie_reviews", "train_samples": 1600, "batch_size": 16, "max_length": 64},
    "smollm2": {"model": "smollm2", "task": "conversations", "train_samples": 400, "batch_size": 4, "max_length": 128},
}
STEPS, EVAL_SAMPLES = {"minilm": 60, "smollm2": 20}, {"minilm": 500, "smollm2": 64}

TOLD = {"minilm": "accuracy in % on movie reviews", "smollm2": "minus the loss on conversations, times 100"}


class TimeUp(Exception):
    """Raised in the place of a run that is not to begin."""


def kept() -> dict[str, float]:
    """Scores of the runs that ended, by their names."""
    return json.loads(KEPT.read_text()) if KEPT.is_file() else {}


def trained(model: str, optimizer: str, rate: float, seed: int, hold_out: bool, given: argparse.Namespace) -> float:
    """The score of a run; raises TimeUp where it is not there and not to begin."""
    kind = "tuning" if hold_out else "final"
    name = f"{model}-{optimizer}-{rate:g}-{seed}-{kind}-{STEPS[model]}"
    if name in (known := kept()):
        return known[name]
    if not given.begins or time.monotonic() > given.end:
        raise TimeUp
    words = {
        **TASKS[model],
        "method": {"name": "lora", "r": 8},
        "optimizer": optimizer,
        "learning_rate": rate,
        "seed": seed,
        "eval_samples": EVAL_SAMPLES[model],
        "hold_out": hold_out,
        "max_steps": STEPS[model],
        "evaluate_every": "end",
        "save_every": "never",
        "output": str(given.folder / name),
    }
    score = run(make(words)).score
    save(KEPT, dict(sorted({**kept(), name: score}.items())))
    print(name, score, flush=True)
    return score


def tune(rates: list[float], score: Callable[[float], float]) -> dict[float, float]:
    """The scores of the rates, and while the best is at an edge of MORE at most, each three times further out."""
    tuned = {rate: score(rate) for rate in rates}
    for _ in range(MORE):
        best = max(tuned, key=lambda rate: tuned[rate])
        if min(tuned) < best < max(tuned):
            break
        beyond = best / 3 if best == min(tuned) else best * 3
        tuned[beyond] = score(beyond)
    return tuned


def row(model: str, optimizer: str, given: argparse.Namespace) -> tuple[str, ...]:
    """The rate that tuning took, where it lies in its grid, and the scores of the final runs."""
    tuned = tune(
        [RATES[optimizer] * factor for factor in FACTORS],
        lambda rate: trained(model, optimizer, rate, TUNING_SEED, True, given),
    )
    rates = sorted(tuned)
    best = rates.index(max(tuned, key=lambda rate: tuned[rate]))
    scores = [100 * trained(model, optimizer, rates[best], seed, False, given) for seed in SEEDS]
    each = ", ".join(f"{score:.1f}" for score in scores)
    spread = f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}"
    return f"`{optimizer}`", f"{rates[best]:g} ({best + 1} of {len(rates)})", spread, each


def rows(model: str, given: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Of the optimisers whose runs are all there; of those that are not wanted no run begins."""
    for optimizer in RATES:
        given.begins = optimizer in given.only
        with suppress(TimeUp):
            yield row(model, optimizer, given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/optimisers"))
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins after that")
    given = parser.parse_args()
    given.end = time.monotonic() + 60 * given.minutes
    parts = []
    for model in given.models:
        header = ("optimiser", "learning rate", "score", "seeds")
        found = list(rows(model, given))
        about = f"{model}, LoRA of rank 8, {STEPS[model]} steps of batch {TASKS[model]['batch_size']}"
        rest = [f"`{name}`" for name in RATES if name not in {cells[0].strip("`") for cells in found}]
        about += f"; {TOLD[model]}; mean ± standard deviation over three seeds."
        about += f" Not run yet: {', '.join(rest)}." if rest else ""
        parts.append(f"{about}\n\n{table(header, found)}" if found else about)
    page = PAGE.read_text(encoding="utf-8")
    write(PAGE, with_table(page, "\n" + "\n".join(parts) + "\n", MARKER, str(PAGE)))


if __name__ == "__main__":
    main()
