"""Does captured gradient energy, known before training, predict what training came to? Into docs/advise.md.

    python benchmarks/advise.py [--folder runs/advise]      no training: one calibration pass a task, and projections
    python benchmarks/advise.py --minutes 3                 stops after so long; the same command goes on from there
    make docs                                               the verdict, into the package's own tables

Over all runs of the committed studies: MiniLM (docs/data/minilm_glue.csv; propositions.json, which has losses too) and
SmolLM2 (lm_study.csv, whose rows are below data/; a set counts once five methods are judged on it with every seed):
rank correlations of kappa, of the energy at the start, and of the number of parameters with the score; and the regret
of following each, task by task, knowing what was measured on the other tasks alone. Writes docs/data/advise.json, whose
energies stand unless --again.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
from lm_study import DATA, STUDIES
from method_table import BASE, BATCH, STEPS
from publish import publish, save
from scipy.stats import spearmanr

from subspace_tuning.advise.energy import families, has_projection
from subspace_tuning.advise.gradients import Gradients, gradients
from subspace_tuning.advise.prior import LEAD, LORA, REFERENCE, Score, Scores
from subspace_tuning.errors import RunFailed
from subspace_tuning.files.markdown import table
from subspace_tuning.method import Method
from subspace_tuning.method.registry import METHODS
from subspace_tuning.run.recipe import Recipe, make
from subspace_tuning.study.statistics import finals, unlearned
from subspace_tuning.sweep.plan import Cell, Plan
from subspace_tuning.sweep.recipe import read_sweep

GLUE, PROPOSITIONS = Path("docs/data/minilm_glue.csv"), Path("docs/data/propositions.json")
PAGE, ENERGIES = "docs/advise.md", Path("docs/data/advise.json")
ENOUGH = 5  # methods on a set, for a rank correlation
BATCHES = 8
ITERATED = (
    "hira",
    "liera",
    "randlora",
)  # whose projections are many small steps: the energy at the start stands for kappa
SAME_REACH = ("trilora", "flora", "moslora", "lora_dash")  # as LoRA, from the same start
RESAMPLES, LEVEL = 2000, (2.5, 97.5)
PREDICTORS = ("kappa", "start", "parameters")


@dataclass(frozen=True)
class Arm:
    """A method and rank on a task, and what training it came to, the mean over seeds."""

    label: str
    name: str  # as the studies' tables have it
    method: Method
    parameters: int
    outcomes: dict[str, float]  # the greater the better

    @property
    def r(self) -> int | None:
        return getattr(self.method, "r", None)


@dataclass(frozen=True)
class Task:
    name: str
    recipe: Recipe
    arms: list[Arm]


def glue() -> list[Task]:
    """The tasks on which full fine-tuning beat the linear probe and chance: elsewhere there is nothing to predict."""
    runs, plan = finals(pd.read_csv(GLUE)), Plan(read_sweep(Path("recipes/minilm_glue.yaml")))
    lost = {task for _, task in unlearned(runs)}
    found = {
        name: studied(name, runs, [c for c in plan.cells if c.some.task == name]) for name in runs["task"].unique()
    }
    return [task for name, task in found.items() if name not in lost]


def language() -> list[Task]:
    """The sets of SmolLM2's study on which enough methods are judged."""
    runs = finals(pd.read_csv(DATA.with_suffix(".csv")))
    plans = {name: Plan(read_sweep(recipe)) for name, recipe in STUDIES.items()}
    found = [studied(name, runs, plan.cells, len(plan.sweep.seeds)) for name, plan in plans.items()]
    return [task for task in found if len(task.arms) >= ENOUGH]


def studied(task: str, runs: pd.DataFrame, cells: list[Cell], seeds: int = 1) -> Task:
    """The methods that have runs of so many seeds."""
    own = runs[runs["task"] == task].groupby("label")[["score", "trainable"]]
    means, counts = own.mean(), own.size()
    arms = []
    for cell in cells:
        if not cell.some.is_plain and counts.get(cell.label, 0) >= seeds:
            score, trainable = means.loc[cell.label]
            method, mpc = cell.some.method_object(), cell.some.mpc
            known = method.name + (f"+mpc_{mpc}" if mpc else "")
            arms.append(Arm(cell.label, known, method, int(trainable), {"score": float(score)}))
    return Task(task, next(cell.some for cell in cells if not cell.some.is_plain), arms)


def reviews() -> Task:
    """The families with a projection of their own."""
    found = json.loads(PROPOSITIONS.read_text())["families"]
    rows = [r for r in found if r["family"] not in ITERATED and has_projection(METHODS[r["family"]]())]
    fields = {**BASE, "train_samples": BATCH * STEPS, "max_steps": STEPS}
    arms = []
    for row in rows:
        label = make({**fields, "method": row["family"]}).method_label
        outcomes = {"score": row["score"]["mean"], "minus loss": -row["loss"]["mean"]}
        arms.append(Arm(label, row["family"], METHODS[row["family"]](), row["trainable"], outcomes))
    return Task("movie_reviews", make({**fields, "method": LORA}), arms)


class Energies:
    """kappa and the energy at the start by task and method, kept in a file, beside published ones by task and label."""

    def __init__(self, folder: Path, minutes: float, published: dict[tuple[str, str], dict[str, float]]):
        self.path, self.end, self.published = folder / "energies.json", time.monotonic() + 60 * minutes, published
        self.known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self._found: tuple[str, Gradients] | None = None

    def of(self, task: Task, arm: Arm) -> dict[str, float]:
        return {**(self.published.get((task.name, arm.label)) or self._made(task, arm)), "parameters": arm.parameters}

    def _made(self, task: Task, arm: Arm) -> dict[str, float]:
        method = METHODS[LORA]().with_fields(r=arm.r) if arm.method.name.startswith(SAME_REACH) else arm.method
        key = f"{task.name} {method.describe()}"
        if key not in self.known:
            if time.monotonic() > self.end:
                raise RunFailed(f"time is up at {key}; the same command goes on from here")
            began = time.monotonic()
            found = self._gradients(task)
            (family,) = families(found, [method])
            kappa = family.start if family.kappa is None else family.kappa  # of what has no projection: OFT, VeRA
            self.known[key] = {"kappa": kappa, "start": family.start}
            save(self.path, self.known)
            print(f"{key}: {kappa:.5f}, {family.start:.5f}, {time.monotonic() - began:.0f} s", flush=True)
        return self.known[key]

    def _gradients(self, task: Task) -> Gradients:
        if self._found is None or self._found[0] != task.name:
            recipe = task.recipe.model_copy(update={"calibration_batches": BATCHES, "output": None, "seed": 0})
            self._found = task.name, gradients(recipe, progress=False)
        return self._found[1]


def published() -> dict[tuple[str, str], dict[str, float]]:
    found = json.loads(ENERGIES.read_text())["arms"]
    return {
        (task, arm["label"]): {k: arm[k] for k in ("kappa", "start")} for task, arms in found.items() for arm in arms
    }


def frame(task: Task, energies: Energies) -> pd.DataFrame:
    rows = [{"label": arm.label, **energies.of(task, arm), **arm.outcomes} for arm in task.arms]
    return pd.DataFrame(rows).set_index("label")


def rho(rows: pd.DataFrame, predictor: str, outcome: str) -> float:
    """Spearman's; zero where all are equal."""
    x, y = rows[predictor].to_numpy(), rows[outcome].to_numpy()
    return float(spearmanr(x, y).statistic) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0


def correlations(frames: list[pd.DataFrame], outcome: str) -> dict[str, dict[str, float]]:
    """Of each predictor, and of kappa less the number of parameters: means over the tasks.

    Intervals from methods drawn anew, the same ones on every task: they say what other methods would do. A task that
    was judged by fewer than three of a draw has no part in it.
    """

    def all_of(tables: list[pd.DataFrame]) -> dict[str, float]:
        found = {p: fmean(rho(rows, p, outcome) for rows in tables) for p in PREDICTORS}
        return {**found, LEAD: found["kappa"] - found["parameters"]}

    labels = sorted(set().union(*(rows.index for rows in frames)))
    rng, drawn = np.random.default_rng(0), []
    while len(drawn) < RESAMPLES:
        chosen = rng.choice(labels, len(labels))
        tables = [rows.loc[[c for c in chosen if c in rows.index]] for rows in frames]
        if told := [rows for rows in tables if rows.index.nunique() > 2]:
            drawn.append(all_of(told))
    ends = {name: np.percentile([d[name] for d in drawn], LEVEL) for name in drawn[0]}
    return {k: {"rho": v, "low": float(ends[k][0]), "high": float(ends[k][1])} for k, v in all_of(frames).items()}


def judged(tasks: list[Task], frames: dict[str, pd.DataFrame]) -> list[dict]:
    """Rows of predictors: each task by itself, and all together."""
    found = []
    for task in tasks:
        for outcome in task.arms[0].outcomes:
            rows = frames[task.name]
            same = np.ptp(rows[outcome].to_numpy()) == 0
            found.append(
                {
                    "study": task.name,
                    "outcome": outcome,
                    "methods": len(rows),
                    "predictors": {} if same else correlations([rows], outcome),
                }
            )
    every = {"study": "all", "outcome": "score", "methods": len(set().union(*(f.index for f in frames.values())))}
    return [*found, {**every, "predictors": correlations(list(frames.values()), "score")}]


def regrets(tasks: list[Task], frames: dict[str, pd.DataFrame]) -> list[dict]:
    """How far each way to choose stays below the best method of a task; scores of that task are not looked at."""
    arms = {task.name: {arm.label: arm for arm in task.arms} for task in tasks}
    every = Scores(Score(name, arm.name, arm.r, arm.outcomes["score"]) for name in arms for arm in arms[name].values())
    shared = set.intersection(*(set(frames[name].index) for name in arms))
    fixed = max(shared, key=lambda label: fmean(frames[name]["score"][label] for name in arms))
    found = []
    for task in tasks:
        rows, others = frames[task.name], every.without(task.name)

        def lead(label: str, name: str = task.name, others: Scores = others) -> float:
            arm = arms[name][label]
            seen = others.over_lora(arm.name, arm.r)
            return seen.lead if seen else float("-inf")

        lora = f"{LORA}(r={REFERENCE})"
        chosen = {
            "advice: measured on the other tasks": max(rows.index, key=lead),
            "kappa": rows["kappa"].idxmax(),
            "energy at the start": rows["start"].idxmax(),
            "most parameters": rows["parameters"].idxmax(),
            "always LoRA, r=8": lora,
            "always the one that is best on all, in hindsight": fixed,
        }
        best = rows["score"].max()
        told = {how: {"method": label, "regret": float(best - rows["score"][label])} for how, label in chosen.items()}
        found.append({"task": task.name, "best": rows["score"].idxmax(), "chosen": told})
    return found


def predictors_table(rows: list[dict]) -> str:
    names = (*PREDICTORS, LEAD)

    def cell(found: dict[str, float] | None) -> str:
        return "" if found is None else f"{found['rho']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"

    header = ("task", "outcome", "methods", "kappa", "energy at the start", "parameters", "kappa less parameters")
    lines = (
        (
            row["study"],
            row["outcome"],
            str(row["methods"]),
            *(cell(row["predictors"].get(name)) for name in names),
        )
        for row in rows
    )
    return table(header, lines)


def regrets_table(rows: list[dict]) -> str:
    ways = list(rows[0]["chosen"])
    header = (
        "chosen by",
        *(row["task"] for row in rows),
        "mean",
    )

    def line(how: str) -> tuple[str, ...]:
        each = (f"{100 * row['chosen'][how]['regret']:.1f} ({row['chosen'][how]['method']})" for row in rows)
        return how, *each, f"{100 * fmean(row['chosen'][how]['regret'] for row in rows):.1f}"

    return table(header, map(line, ways))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/advise"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--tasks", nargs="*", default=[], help="without it all")
    parser.add_argument("--again", action="store_true", help="published energies, too")
    given = parser.parse_args()
    tasks = [task for task in (*glue(), reviews(), *language()) if task.name in given.tasks or not given.tasks]
    energies = Energies(given.folder, given.minutes, {} if given.again else published())
    frames = {task.name: frame(task, energies) for task in tasks}
    data = {
        "about": f"Gradients of {BATCHES} batches before the first step, seed 0; python benchmarks/advise.py",
        "correlations": judged(tasks, frames),
        "regrets": regrets(tasks, frames),
        "arms": {name: rows.reset_index().to_dict("records") for name, rows in frames.items()},
    }
    tables = {"predictors": predictors_table(data["correlations"]), "regrets": regrets_table(data["regrets"])}
    publish("advise", data, PAGE, {key: f"\n{made}\n" for key, made in tables.items()})
    print("\n".join(tables.values()))


if __name__ == "__main__":
    main()
