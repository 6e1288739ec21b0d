"""What came out of recipes/minilm_glue.yaml, into docs/study.md: scores with intervals, ranks, noise, verdicts.

    subspace sweep recipes/minilm_glue.yaml
    python benchmarks/minilm_glue.py [--runs runs/minilm-glue]

Writes every finished run to docs/data/minilm_glue.csv, the figures to docs/data/minilm_glue.json and the outcome
between the marker lines of docs/study.md; a study that is not finished is said to be so. Contenders of which the folder
has no final run keep their rows of the committed csv, so that some can be run again without the rest.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import pandas as pd

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.run.recipe import FULL
from subspace_tuning.study.claims import verdicts
from subspace_tuning.study.ranking import ranking
from subspace_tuning.study.reproduce import plain
from subspace_tuning.study.statistics import Arm, averages, differences, noise, shares, summary, unlearned
from subspace_tuning.sweep.plan import Plan
from subspace_tuning.sweep.recipe import read_sweep
from subspace_tuning.sweep.results import gather, gather_failures

RECIPE = Path("recipes/minilm_glue.yaml")
PAGE, DATA, MARKER = Path("docs/study.md"), Path("docs/data/minilm_glue"), "<!-- minilm -->"


def outcome(runs: pd.DataFrame, wanted: dict[str, int], failed: int = 0) -> str:
    """The outcome as markdown; ``wanted`` says how many runs of each kind a finished study has."""
    parts = [standing(runs, wanted, failed)]
    if (runs["kind"] == "final").any():
        parts += [
            rates(runs),
            "### Scores\n",
            scores(runs),
            told_apart(runs),
            "### Claims\n",
            claims(runs),
            *where_learned(runs),
        ]
    return "\n" + "\n".join(parts) + "\n"


def standing(runs: pd.DataFrame, wanted: dict[str, int], failed: int) -> str:
    done = {kind: int((runs["kind"] == kind).sum()) for kind in wanted}
    told = ", ".join(f"{done[kind]} of {total} {kind} runs" for kind, total in wanted.items())
    state = "Finished" if done == wanted else "**Not finished**: what follows rests on the runs that are there"
    lost = f" {failed} failed and are missing below." if failed else ""
    hours = runs["seconds"].sum() / 3600
    devices = ", ".join(sorted(set(runs["device"]))) or "no device"
    return f"{state}: {told}, {hours:.1f} hours of runs on {devices}.{lost}\n"


def rates(runs: pd.DataFrame) -> str:
    """Which of the tried learning rates were taken: one at the edge of its grid may not be the best there is."""
    places = Counter()
    for _, cell in runs.groupby(["model", "task", "label"]):
        tried = sorted(set(cell.loc[cell["kind"] == "tuning", "learning_rate"]))
        taken = set(cell.loc[cell["kind"] == "final", "learning_rate"])
        if not tried:
            continue
        places.update("lowest" if rate == tried[0] else "highest" if rate == tried[-1] else "middle" for rate in taken)
    told = ", ".join(f"the {place} {places[place]} times" for place in ("lowest", "middle", "highest"))
    return f"Of the rates tried for a contender on a task, tuning took {told} (of equals the lower).\n"


def scores(runs: pd.DataFrame) -> str:
    """A row a contender, best first: mean and standard deviation a task, average, share of full fine-tuning."""
    cells, means, parts = summary(runs), averages(runs), shares(runs)
    tasks = sorted(cells["task"].unique())
    shown = {
        (arm_of(c), c.task): f"{100 * c.mean:.1f}" + (f" ± {100 * c.std:.1f}" if c.n > 1 else " (1 run)")
        for c in cells.itertuples()
    }
    part = {arm_of(p): _with_interval(p.effect, p.low, p.high) for p in parts.itertuples()}
    permille = {arm_of(r): r.permille for r in runs.itertuples()}
    rows = []
    for a in means.sort_values(["complete", "mean"], ascending=False).itertuples():
        arm = arm_of(a)
        average = _with_interval(a.mean, a.low, a.high) if a.complete else "tasks missing"
        own = [shown.get((arm, task), "") for task in tasks]
        rows.append((f"`{arm.name}`", f"{permille.get(arm, 0):.2f}", *own, average, part.get(arm, "")))
    header = ("method", "per mille", *tasks, "average, 95 %", "% of full, 95 %")
    return f"In %, mean ± standard deviation over seeds.\n\n{table(header, rows)}"


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f}" + ("" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


def told_apart(runs: pd.DataFrame) -> str:
    """The noise of seeds, the ranks, and what differs from full fine-tuning."""
    floors = ", ".join(f"{row.task} {100 * row.floor:.1f}" for row in noise(runs).itertuples())
    found = ranking(runs)
    lines = [f"Seed noise: two means that differ by fewer points may be chance: {floors}.\n"] if floors else []
    lines.append(f"Ranks: {found.told}.\n")
    if found.groups:
        ranked = [f"`{name}` {rank:.1f}" for name, rank in zip(found.names, found.mean_ranks, strict=True)]
        lines.append(f"Mean ranks: {', '.join(ranked)}.\n")
    beside = differences(runs, FULL)
    for told, group in beside.groupby("told"):
        names = ", ".join(f"`{arm_of(row).name}`" for row in group.itertuples())
        lines.append(f"Beside full fine-tuning (sign flips, Holm), {told}: {names}.\n")
    return "\n".join(lines)


def claims(runs: pd.DataFrame) -> str:
    rows = []
    for v in verdicts(runs):
        rows.append((v.claim, f"**{v.verdict}**", f"{v.text}: {v.why}", v.paper))
        rows += [("", p.verdict, f"{p.about}: {p.why}", "") for p in v.parts]
    return table(("claim", "verdict", "what these runs say", "the paper's tables"), rows)


def where_learned(runs: pd.DataFrame) -> list[str]:
    """The claims once more, without the tasks that were not learned."""
    lost = [task for _, task in unlearned(runs)]
    rest = runs[~runs["task"].isin(lost)]
    if not lost or rest.empty:
        return []
    said = (
        f"On {' and '.join(lost)} full fine-tuning does not beat the linear probe and chance beyond the noise of "
        f"seeds: scores there say little of methods and can pull shares towards 100 %. Without them, on "
        f"{' and '.join(sorted(set(rest['task'])))}:\n"
    )
    return ["### Claims, where something was learned\n", said, claims(rest)]


def arm_of(row) -> Arm:
    return Arm(row.model, row.method, None if pd.isna(row.r) else int(row.r))


def beside(runs: pd.DataFrame, kept: pd.DataFrame | None) -> pd.DataFrame:
    """The runs of a folder, and the earlier ones of contenders that the folder has not judged as often."""
    if kept is None:
        return runs
    now, before = (part.loc[part["kind"] == "final", "label"].value_counts() for part in (runs, kept))
    again = {label for label, number in now.items() if number >= before.get(label, 0)}
    return pd.concat([runs[runs["label"].isin(again)], kept[~kept["label"].isin(again)]], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=None, help="the sweep's folder; as the recipe says without it")
    given = parser.parse_args()
    plan = Plan(read_sweep(RECIPE))
    folder = given.runs or plan.folder
    csv = DATA.with_suffix(".csv")
    if not folder.is_dir() and (given.runs or not csv.is_file()):
        raise BadInput(f"there is no {folder}; run `subspace sweep {RECIPE}` first")
    kept = pd.read_csv(csv).astype({"r": "Int64"}) if csv.is_file() else None
    runs = beside(gather(folder), kept) if folder.is_dir() else kept
    failed = len(gather_failures(folder)) if folder.is_dir() else 0
    wanted = {
        "tuning": sum(len(plan.tuning_runs(cell)) for cell in plan.cells),
        "final": len(plan.cells) * len(plan.sweep.seeds),
    }
    page = with_table(PAGE.read_text(encoding="utf-8"), outcome(runs, wanted, failed), MARKER, str(PAGE))
    csv.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        write(csv, runs.to_csv(index=False))
    figures = {"wanted": wanted, "summary": json.loads(summary(runs).to_json(orient="records"))} if len(runs) else {}
    figures["verdicts"] = [plain(v) for v in verdicts(runs)] if len(runs) else []
    write(DATA.with_suffix(".json"), json.dumps(figures, indent=2) + "\n")
    write(PAGE, page)
    print(f"{PAGE}: {len(runs)} of {sum(wanted.values())} runs")


if __name__ == "__main__":
    main()
