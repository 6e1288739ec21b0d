"""LoRA with ranks by water-filling against one rank for all, at the same budget and scale, paired by seed.

    python benchmarks/rank_patterns.py [--rank 4] [--seeds 3] [--folder runs/rank-patterns]

MiniLM on 3,200 movie reviews, twice those of the demo. The gradient is that of the run's own start, so each seed has
ranks of its own. Finished runs are not run again. Writes docs/data/rank_patterns.json and the table of docs/advise.md.
"""

import argparse
from pathlib import Path
from statistics import fmean

from demo_learning_rates import SENTENCES
from publish import publish
from scipy.stats import ttest_1samp

from subspace_tuning.advise import filling
from subspace_tuning.advise.gradients import gradients
from subspace_tuning.files.markdown import table
from subspace_tuning.methods.extend.lora import LoRA
from subspace_tuning.run.demo import Demo
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run


def compared(rank: int, seed: int, folder: Path) -> dict:
    demo = next(c.recipe for c in Demo.read().contenders if c.title.startswith("LoRA r=4") and not c.recipe.mpc)
    s = LoRA().alpha / 4  # the scale of the demo's LoRA
    fields = {key: value for key, value in demo.model_dump(exclude_unset=True).items() if key != "output"}
    fields |= {"train_samples": SENTENCES, "seed": seed, "method": {"name": "lora", "r": rank, "alpha": s * rank}}
    found = gradients(make(fields), progress=False)
    seats = found.of(LoRA())
    energies, costs = filling.spectra(seats), {seat.name: sum(seat.shape) for seat in seats}
    budget = rank * sum(costs.values())
    ranks = filling.fill(energies, costs, budget)
    pattern = filling.pattern(ranks, {seat.name: seat.module for seat in seats}, s)
    same = dict.fromkeys(energies, rank)
    ways = {"uniform": ({}, same), "water-filling": (pattern, ranks)}
    results = {}
    for name, (change, own) in ways.items():
        result = run(make({**fields, **change, "output": str(folder / f"{name}-r{rank}-{seed}")}))
        results[name] = {"score": result.score, "trainable": result.trainable, "held": filling.held(energies, own)}
    print(seed, results, flush=True)
    return {"seed": seed, "layers": len(ranks), "most": max(ranks.values()), **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/rank-patterns"))
    given = parser.parse_args()
    rows = [compared(given.rank, seed, given.folder) for seed in range(given.seeds)]
    gaps = [row["water-filling"]["score"] - row["uniform"]["score"] for row in rows]
    interval = ttest_1samp(gaps, 0).confidence_interval(0.95) if len(gaps) > 1 else None
    told = f"{100 * fmean(gaps):+.1f}"
    told += "" if interval is None else f" [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    lines = [
        (
            str(row["seed"]),
            *(f"{100 * row[way]['score']:.1f}" for way in ("uniform", "water-filling")),
            *(f"{100 * row[way]['held']:.0f} %" for way in ("uniform", "water-filling")),
            f"{row['water-filling']['trainable']:,} of {row['uniform']['trainable']:,}",
            f"{row['layers']}, at most {row['most']}",
        )
        for row in rows
    ]
    header = ("seed", "uniform", "water-filling", "energy, uniform", "energy, filled", "parameters", "layers, rank")
    text = f"\nLoRA, r = {given.rank}. Water-filling less uniform, in points, 95 % (Student): {told}.\n\n"
    publish(
        "rank_patterns",
        {"rank": given.rank, "rows": rows},
        "docs/advise.md",
        {"patterns": f"{text}{table(header, lines)}\n"},
    )


if __name__ == "__main__":
    main()
