"""Tests the paper's propositions (arXiv:2407.05417) on real training: how near a family can come to W*, and does.

W* is the offline default encoder fully fine-tuned on real data; every family that is a map of the weight is fitted to
it, layer by layer, and trained on the same data. LoRA and its kin are trained without MPC, with MPC_o and with MPC_d.
Usage, from the repository's root:

    python benchmarks/propositions.py [--workers 2]     train what is missing, fit, measure; the page and its picture
    python benchmarks/propositions.py --steps 2 --seeds 2 --only ssl lora flora --folder runs/tried     a small one
    python benchmarks/propositions.py --renew NAME ...   train these again; fits and all other rows stay

Runs are those of benchmarks/method_table.py, with its learning rates, where it has them. Finished runs and fits are not
made again. Writes docs/data/propositions.json, docs/propositions.md, docs/pictures/propositions.png and .svg.
"""

import argparse
import json
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import propositions_page as page
import torch
from method_table import BASE, BATCH, RATES, judged, place, rates_in, run, save
from safetensors.torch import load_file
from scipy.stats import bootstrap, spearmanr, ttest_1samp

from subspace_tuning.cli.progress import counted
from subspace_tuning.docs import SCORES
from subspace_tuning.files import assets
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.recipe import FULL, HEAD, Recipe
from subspace_tuning.theory.fit import Family, Fit, choose
from subspace_tuning.theory.subspaces import Patterns, patterns

RUNS = Path("runs/propositions")
EQUAL = ("lora", "trilora", "flora", "moslora")  # A M B with M = I, diagonal, full, full: one reach by eq. (22)
HELD = (*EQUAL, "adalora", "dora", "pissa")  # trained with MPC too
NONE, PATTERNS = "none", ("none", "o", "d")
SEATS = ".subspace_params."
LAYERS = r"encoder\.layer\."  # no method sits on embeddings
KEYS = ("score", "loss")
DATA = "propositions.json"


@dataclass(frozen=True)
class Contender:
    """One family, held to a pattern or not, from one seed."""

    family: str
    pattern: str
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Outcome:
    """What training came to: the score, the loss on the same rows, and where the method sat."""

    result: Result
    loss: float
    seats: frozenset[str]
    residuals: Patterns | None  # of A and B, mean over layers


Done = dict[tuple[str, str], list[Outcome]]  # (family, pattern) -> what training came to, by seeds


def contender(family: str, pattern: str, seed: int, rates: dict[str, float], given: Namespace) -> Contender:
    """AdaLoRA's own regulariser is MPC_o without its squares: AdaLoRA without MPC is the one with that taken away."""
    recipe = judged(family, seed, rates, given)
    own = family == "adalora"
    change: dict[str, Any] = {"method": {"name": family, "orthogonality": 0.0}} if own and pattern != "o" else {}
    if pattern != NONE and not (own and pattern == "o"):
        change["mpc"] = pattern
    if change:
        where = RUNS / f"{given.steps}-steps" / f"{Path(recipe.output or '').name}-mpc-{pattern}"
        recipe = recipe.model_copy(update={**change, "output": str(where)})
    return Contender(family, pattern, seed, recipe)


def outcome_of(result: Result, folder: Path) -> Outcome:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loss = next(line["eval_loss"] for line in reversed(lines) if "eval_loss" in line)
    path = folder / "adapter" / "adapter_model.safetensors"
    if not path.is_file():
        return Outcome(result, loss, frozenset(), None)
    held: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(path).items():
        module, found, name = key.removeprefix("base_model.model.").partition(SEATS)
        if found:
            held.setdefault(module, {})[name] = value
    pairs = [(v["A"], v["B"]) for v in held.values() if {"A", "B"} <= set(v)]
    pairs = [(A, B) for A, B in pairs if A.dim() == B.dim() == 2 and A.shape[1] == B.shape[0]]
    looks = [patterns(A, B) for A, B in pairs]
    means = Patterns(*(fmean(column) for column in zip(*looks, strict=True))) if looks else None
    return Outcome(result, loss, frozenset(held), means)


def fits(names: list[str], seed: int, full: Path, given: Namespace) -> dict[str, Family]:
    """Every family with its default fields, nearest to this seed's W*."""
    methods, refused = choose(names, None)
    for name, why in refused.items():
        print(f"not fitted: {name}: {why}")
    fit = Fit(Checkpoint(assets.DEFAULT), Checkpoint(full), RUNS / f"{given.steps}-steps" / f"fit-seed-{seed}")
    with counted(f"fitting, seed {seed}") as tick:
        return {family.method.name: family for family in fit.run(methods, LAYERS, tick=tick).families}


def captured(family: Family, seats: Iterable[str]) -> float:
    """The share of ||W* - W||^2 of the blocks that a family captures where it was trained; elsewhere it has none."""
    seats = set(seats)
    whole = sum(f.whole for f in family.fitted.values())
    return sum(f.whole - f.left for name, f in family.fitted.items() if name in seats) / whole if whole else 0.0


def told(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "spread": stdev(values) if len(values) > 1 else 0.0, "values": list(values)}


def scores_of(runs: Sequence[Outcome]) -> dict[str, Any]:
    return {"score": told([r.result.score for r in runs]), "loss": told([r.loss for r in runs])}


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> dict[str, Any] | None:
    """Spearman's rho over the rows, with a 95 % interval from rows drawn anew 2000 times."""
    if len(x) < 4 or len(set(x)) == 1 or len(set(y)) == 1:
        return None

    def rho(a: Any, b: Any) -> float:
        return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0

    drawn = bootstrap(
        (x, y), rho, paired=True, vectorized=False, n_resamples=2000, method="percentile", random_state=0
    ).confidence_interval
    return {"rho": rho(x, y), "low": float(drawn.low), "high": float(drawn.high), "rows": len(x)}


def difference(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Mean of a - b, paired, with Student's 95 % interval."""
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    found: dict[str, Any] = {"mean": fmean(gaps), "low": None, "high": None}
    if len(gaps) > 1 and len(set(gaps)) > 1:
        low, high = ttest_1samp(gaps, 0).confidence_interval(0.95)
        found |= {"low": float(low), "high": float(high)}
    return found


class Measured:
    """Outcomes by (family, pattern), in the order of their seeds."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], dict[int, Outcome]] = {}

    def add(self, c: Contender, outcome: Outcome) -> None:
        self.found.setdefault((c.family, c.pattern), {})[c.seed] = outcome

    def complete(self, seeds: int) -> Done:
        """Those of which every seed came through."""
        return {k: [v[s] for s in sorted(v)] for k, v in self.found.items() if len(v) == seeds}


def trained_with(name: str) -> str:
    """The pattern of a family as the table of methods trains it: AdaLoRA has a regulariser of its own."""
    return "o" if name == "adalora" else NONE


def of_families(done: Done, fitted: list[dict[str, Family]]) -> list[dict[str, Any]]:
    """The families as the table of methods trains them."""
    rows = []
    for name in fitted[0]:
        runs = done.get((name, trained_with(name)))
        if runs:
            reach = [captured(fit[name], run.seats) for fit, run in zip(fitted, runs, strict=True)]
            rows.append(
                {
                    "family": name,
                    "category": runs[0].result.category,
                    "captured": told(reach),
                    "captured_on_all_layers": told([fit[name].captured_energy for fit in fitted]),
                    **scores_of(runs),
                    "trainable": runs[0].result.trainable,
                    "permille": runs[0].result.permille,
                }
            )
    return sorted(rows, key=lambda row: -row["captured"]["mean"])


def of_patterns(done: Done) -> list[dict[str, Any]]:
    """LoRA and its kin with each pattern, and how far their A and B ended from what the patterns ask."""
    rows = []
    for name in HELD:
        for pattern in PATTERNS:
            runs = done.get((name, pattern))
            if runs and all(run.residuals for run in runs):
                residuals = zip(*(run.residuals for run in runs if run.residuals), strict=True)
                rows.append(
                    {
                        "family": name,
                        "mpc": pattern,
                        "score": told([r.result.score for r in runs]),
                        "loss": told([r.loss for r in runs]),
                        "residuals": dict(zip(Patterns._fields, map(fmean, residuals), strict=True)),
                    }
                )
    return rows


def with_and_without(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pattern against none, paired by seed, for every family, the mean of all, and of all but AdaLoRA.

    AdaLoRA is trained at a rate for AdaLoRA with its own MPC_o; without it that rate leads nowhere.
    """
    at = {(row["family"], row["mpc"]): row for row in rows}
    names = [name for name in HELD if (name, NONE) in at]
    found = []
    others = [name for name in names if name != "adalora"]
    for group, label in [*(([name], name) for name in names), (names, "all"), (others, "all but adalora")]:
        for pattern in PATTERNS[1:]:
            both = [(at[name, pattern], at[name, NONE]) for name in group if (name, pattern) in at]
            if both:
                sides = list(zip(*both, strict=True))
                found.append({"family": label, "mpc": pattern} | {k: difference(*_by_seed(sides, k)) for k in KEYS})
    return found


def _by_seed(sides: Iterable[Iterable[dict[str, Any]]], key: str) -> list[list[float]]:
    """Of each side, the mean over its families, one number a seed: families of one seed are not independent."""
    return [[fmean(column) for column in zip(*(row[key]["values"] for row in side), strict=True)] for side in sides]


def equal_reach(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Proposition 1: one reach, and what training made of it; differences from LoRA, paired by seed."""
    kin = [row for name in EQUAL for row in rows if row["family"] == name]
    reach = [row["captured_on_all_layers"]["values"] for row in kin]
    gap = max((max(column) - min(column) for column in zip(*reach, strict=True)), default=0.0)
    against = {row["family"]: {k: difference(row[k]["values"], kin[0][k]["values"]) for k in KEYS} for row in kin[1:]}
    return {"families": [row["family"] for row in kin], "largest_gap_of_captured_energy": gap, "against_first": against}


def correlations(rows: list[dict[str, Any]], held: list[dict[str, Any]]) -> dict[str, Any]:
    def between(of: list[dict[str, Any]], x: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
        return {k: rank_correlation([x(row) for row in of], [row[k]["mean"] for row in of]) for k in KEYS}

    return {
        "captured energy": between(rows, lambda row: row["captured"]["mean"]),
        "captured energy, extensions": between(
            [row for row in rows if row["category"] == "extension"], lambda row: row["captured"]["mean"]
        ),
        "trained parameters": between(rows, lambda row: row["trainable"]),
        **{name: between(held, lambda row, name=name: row["residuals"][name]) for name in Patterns._fields},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="families; without it all")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=Path(SCORES).parents[1], help="where docs/ is")
    parser.add_argument("--renew", nargs="*", default=[], help="families whose published trainings are made again")
    given = parser.parse_args()
    assets.default_model(), assets.movie_reviews()
    names = [m.name for m in choose(given.renew or given.only or None, None)[0]]
    wanted, done = trained(names, [] if given.renew else [FULL, HEAD], given)
    data = renewed(names, done, given) if given.renew else whole(names, wanted, done, given)
    data["failed"] = sorted({f"{c.family} {c.pattern}" for c in wanted} - {f"{a} {b}" for a, b in done})
    save(given.folder / "data" / DATA, data)
    page.write_page(data, given.folder)
    print(page.text(data))


def trained(names: list[str], beside: list[str], given: Namespace) -> tuple[list[Contender], Done]:
    """The contenders, and of those that all seeds came through what training came to."""
    rates = rates_in(place(given.folder / "data", RATES, given.steps))
    asked = [(name, p) for name in names for p in (PATTERNS if name in HELD else (NONE,))]
    pairs = [*((name, NONE) for name in beside), *asked]
    wanted = [contender(name, pattern, seed, rates, given) for seed in range(given.seeds) for name, pattern in pairs]
    measured = Measured()
    by_place = {c.recipe.output: c for c in wanted}
    for recipe, result in run([c.recipe for c in wanted], given.workers):
        if result is not None:
            measured.add(by_place[recipe.output], outcome_of(result, Path(recipe.output or "")))
    return wanted, measured.complete(given.seeds)


def whole(names: list[str], wanted: list[Contender], done: Done, given: Namespace) -> dict[str, Any]:
    """Everything, from trainings and fits."""
    if (FULL, NONE) not in done or (HEAD, NONE) not in done:
        raise SystemExit("full fine-tuning or the linear probe failed: there is no W* or nothing to compare with")
    full = [RunFolder(c.recipe.output or "") for c in wanted if c.family == FULL]
    fitted = [fits(names, seed, folder.path, given) for seed, folder in enumerate(full)]
    some = done[FULL, NONE][0].result
    return {
        "about": (
            f"MiniLM ({some.total / 1e6:.1f} M weights) on movie-review sentences: {given.steps} steps of batch "
            f"{BATCH}, {BASE['eval_samples']} sentences to judge by, {given.seeds} seeds, {some.device}."
        ),
        "metric": some.metric,
        "seeds": given.seeds,
        "versions": some.versions,
        **{title: scores_of(done[method, NONE]) for title, method in (("full", FULL), ("probe", HEAD))},
        **told_of(of_families(done, fitted), of_patterns(done)),
    }


def renewed(names: list[str], done: Done, given: Namespace) -> dict[str, Any]:
    """What is published, with these families' trainings in place of theirs; W* and the fits to it stay."""
    data = json.loads((given.folder / "data" / DATA).read_text(encoding="utf-8"))
    again = {name: scores_of(done[name, trained_with(name)]) for name in names if (name, trained_with(name)) in done}
    held = [row for row in data["patterns"] if (row["family"], row["mpc"]) not in done] + of_patterns(done)
    held.sort(key=lambda row: (HELD.index(row["family"]), PATTERNS.index(row["mpc"])))
    return data | told_of([row | again.get(row["family"], {}) for row in data["families"]], held)


def told_of(rows: list[dict[str, Any]], held: list[dict[str, Any]]) -> dict[str, Any]:
    """What follows from the families' rows and from those with patterns."""
    return {
        "families": rows,
        "equal_reach": equal_reach(rows),
        "patterns": held,
        "with_and_without_mpc": with_and_without(held),
        "rank_correlations": correlations(rows, held),
    }


if __name__ == "__main__":
    main()
