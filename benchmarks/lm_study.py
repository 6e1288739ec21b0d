"""What came out of the studies of a language model, into docs/language_models.md; they may go on elsewhere, in pieces.

    python benchmarks/lm_study.py --restore                      # the finished runs of docs/data, as result folders
    subspace sweep recipes/lm_study.yaml --max-hours 2           # runs what is missing
    python benchmarks/lm_study.py [--runs NAME=FOLDER ...]       # takes up what is new, writes data and page

Every finished run that the recipes plan is kept in docs/data/lm_study.json, config and result, and as a row of
docs/data/lm_study.csv; runs that are no longer on disk stay there. The outcome goes between the marker lines of the
page; a study that is not finished is said to be so. With --report its report too, docs/lm_study.html.
"""

import argparse
from pathlib import Path

import pandas as pd
from kept_runs import Kept, as_data, committed, counted, lines, page_of, restored, taken_up

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.files.plain import read_object
from subspace_tuning.run.recipe import NONE
from subspace_tuning.study.language import gain_per_parameter, verdicts
from subspace_tuning.study.reproduce import plain
from subspace_tuning.study.retention import as_score, judgements, told
from subspace_tuning.study.statistics import ARM, Arm, averages, finals, shares, summary
from subspace_tuning.sweep.plan import FINAL, TUNING, Plan
from subspace_tuning.sweep.recipe import read_sweep

STUDIES = {"ARC-Easy": Path("recipes/lm_study.yaml"), "OpenBookQA": Path("recipes/lm_study_openbookqa.yaml")}
PAGE, DATA, MARKER = Path("docs/language_models.md"), Path("docs/data/lm_study"), "<!-- lm study -->"
REPORT = Path("docs/lm_study.html")
OTHER_SET = {"multiple_choice_openbookqa": "other_set", "multiple_choice_ARC_Easy": "other_set"}


def alike(runs: Kept, plan: Plan, study: str) -> pd.DataFrame:
    """The planned runs, the set as task, with one name for the judgement of the other set."""
    frame = counted(runs, plan, study)
    names = {c: c.replace(old, new) for c in frame for old, new in OTHER_SET.items() if c.endswith(old)}
    return frame.rename(columns=names)


# the outcome as markdown


def outcome(runs: pd.DataFrame, plans: dict[str, Plan]) -> str:
    parts = [standing(runs, study, plan) for study, plan in plans.items()]
    if (runs["kind"] == FINAL).any():
        parts += [edges(runs, plans), "### Scores\n", scores(runs), "### Gained and forgotten\n", forgotten(runs)]
        parts += ["### Claims\n", claims(runs), "### Gain per parameter\n", gains(runs)]
    return "\n" + "\n".join(parts) + "\n"


def standing(runs: pd.DataFrame, study: str, plan: Plan) -> str:
    own = runs[runs["task"] == study]
    wanted = {
        TUNING: sum(len(plan.tuning_runs(cell)) for cell in plan.cells),
        FINAL: len(plan.cells) * len(plan.sweep.seeds),
    }
    done = {kind: int((own["kind"] == kind).sum()) for kind in wanted}
    state = "finished" if done == wanted else "**not finished**: what follows rests on the runs that are there"
    told = ", ".join(f"{done[kind]} of {total} {kind} runs" for kind, total in wanted.items())
    made = ""
    if len(own):
        made = f", {own['seconds'].sum() / 3600:.1f} hours of runs on {', '.join(sorted(set(own['device'])))}"
    judged = set(own.loc[own["kind"] == FINAL, "label"])
    lacking = [f"`{cell.label}`" for cell in plan.cells if cell.label not in judged]
    return f"{study}: {state}: {told}{made}." + (f" Not judged yet: {', '.join(lacking)}." if lacking else "") + "\n"


def edges(runs: pd.DataFrame, plans: dict[str, Plan]) -> str:
    """Contenders whose best value is the lowest or the highest tried: a better one may lie beyond."""
    found = []
    for study, plan in plans.items():
        for cell in plan.cells:
            own = runs[(runs["task"] == study) & (runs["label"] == cell.label) & (runs["kind"] == FINAL)]
            for field in {key for candidate in cell.candidates for key, _ in candidate}:
                tried = sorted({dict(candidate)[field] for candidate in cell.candidates})
                for value in set(own[field]) & {tried[0], tried[-1]} if len(tried) > 1 else ():
                    end = "lowest" if value == tried[0] else "highest"
                    found.append(f"`{cell.label}` on {study} (the {end} {field.replace('_', ' ')}, {value:g})")
    if not found:
        return "What tuning chose lies inside its grid for every contender.\n"
    return f"What tuning chose is at the edge of its grid for {', '.join(found)}: a better value may lie beyond.\n"


def scores(runs: pd.DataFrame) -> str:
    """A row a contender, best first."""
    known = finals(runs)
    cells, means, part = summary(runs), averages(runs), shares(runs)
    sets = [study for study in STUDIES if study in set(cells["task"])]
    shown = {(arm_of(c), c.task): _spread(100 * c.mean, 100 * c.std) for c in cells.itertuples()}
    of_full = {arm_of(p): _interval(100 * p.effect, 100 * p.low, 100 * p.high, 1) for p in part.itertuples()}
    costs = known.groupby(ARM, dropna=False)[["permille", "seconds_per_step", "peak_memory_mb"]].median().reset_index()
    cost = {arm_of(c): c for c in costs.itertuples()}
    rows = []
    for mean in means.sort_values(["complete", "mean"], ascending=False).itertuples():
        arm, own = arm_of(mean), cost[arm_of(mean)]
        average = (
            _interval(100 * mean.mean, 100 * mean.low, 100 * mean.high, 1) if mean.complete else "a set is missing"
        )
        each = [shown.get((arm, study), "") for study in sets]
        spent = (f"{own.seconds_per_step:.2f}", f"{own.peak_memory_mb:,.0f}") if arm.method != NONE else ("", "")
        rows.append((f"`{arm.name}`", f"{own.permille:,.2f}", *each, average, of_full.get(arm, ""), *spent))
    header = ("method", "per mille", *sets, "average, 95 %", "% of full, 95 %", "s/step", "peak MB")
    told = (
        "Accuracy in %, mean ± standard deviation over seeds; seconds and memory are medians over the final runs, each "
        "on a core that other work shared, now more, now less (side by side: [how close to the floor](floor.md))."
    )
    return f"{told}\n\n{table(header, rows)}"


def forgotten(runs: pd.DataFrame) -> str:
    """A table for each retention: what the base was able to, and who gains and who forgets."""
    found, parts = told(runs), []
    for name in judgements(runs):
        known = finals(runs)
        before = known[f"after_{name}"] - known[f"change_{name}"]
        base = ", ".join(f"{study} study {value:.4f}" for study, value in before.groupby(known["task"]).first().items())
        each = summary(as_score(runs, name))
        shown = {(arm_of(cell), cell.task): f"{cell.mean:+.4f}" for cell in each.itertuples()}
        sets = [study for study in STUDIES if study in set(each["task"])]
        rows = [
            (
                f"`{arm_of(row).name}`",
                _interval(100 * row.gain, 100 * row.gain_low, 100 * row.gain_high, 2),
                f"**{row.target}**",
                _interval(row.kept, row.kept_low, row.kept_high, 4),
                f"**{row.retention}**",
                "" if pd.isna(row.kept_p) else f"{row.kept_p:.2g}",
                *(shown.get((arm_of(row), study), "") for study in sets),
            )
            for row in found[found["judgement"] == name].sort_values("kept", ascending=False).itertuples()
        ]
        header = ("method", "gain over the base, points", "target", "kept (0: as the base)", "retention", "p (Holm)")
        header += tuple(f"kept after {study}" for study in sets)
        parts.append(f"{name.replace('_', ' ')}, the base before training: {base}.\n\n{table(header, rows)}")
    how = (
        "Averages over the sets that were trained on. p asks whether signs alone make such an average: where a "
        "contender keeps more after one set and less after the other, it is large though every seed says the same.\n"
    )
    return "\n".join([how, *parts]) if parts else "No retention was judged.\n"


def claims(runs: pd.DataFrame) -> str:
    rows = []
    for v in verdicts(runs):
        rows.append((v.claim, f"**{v.verdict}**", f"{v.text}: {v.why}"))
        rows += [("", part.verdict, f"{part.about}: {part.why}") for part in v.parts]
    return table(("claim", "verdict", "what these runs say"), rows)


def gains(runs: pd.DataFrame) -> str:
    rows = [
        (
            f"`{arm_of(row).name}`",
            str(row.tasks),
            f"{row.permille:,.2f}",
            f"{row.gain:+.2f}",
            f"{row.per_permille:+.3g}",
        )
        for row in gain_per_parameter(runs).itertuples()
    ]
    return table(("method", "sets", "per mille", "gain, points", "points per per mille"), rows, 1)


def arm_of(row) -> Arm:
    return Arm(row.model, row.method, None if pd.isna(row.r) else int(row.r))


def _spread(mean: float, std: float) -> str:
    return f"{mean:.1f}" + (" (1 run)" if pd.isna(std) else f" ± {std:.1f}")


def _interval(value: float, low: float, high: float, digits: int) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.{digits}f}" + ("" if pd.isna(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=FOLDER", help="a study's folder, if another")
    parser.add_argument("--restore", action="store_true", help="write the committed runs as result folders, no more")
    parser.add_argument("--report", action="store_true", help="make docs/lm_study.html too")
    given = parser.parse_args()
    plans = {study: Plan(read_sweep(recipe)) for study, recipe in STUDIES.items()}
    folders = {study: plan.folder for study, plan in plans.items()}
    for word in given.runs:
        study, equals, folder = word.partition("=")
        if not equals or study not in STUDIES or not Path(folder).is_dir():
            raise BadInput(f"cannot use --runs {word}: expected NAME=FOLDER, NAME one of {', '.join(STUDIES)}")
        folders[study] = Path(folder)
    file = DATA.with_suffix(".json")
    data = read_object(file, "the data of the study") if file.is_file() else {}
    kept = {study: committed(data.get("studies", {}), study) for study in STUDIES}
    if given.restore:
        for study, plan in plans.items():
            print(restored(kept[study], plan))
        return
    runs = {study: taken_up(kept[study], folder) for study, folder in folders.items()}
    tables = [alike(runs[study], plan, study) for study, plan in plans.items()]
    frame = pd.concat([part for part in tables if len(part)] or tables, ignore_index=True)
    page = with_table(PAGE.read_text(encoding="utf-8"), outcome(frame, plans), MARKER, str(PAGE))
    found = [plain(verdict) for verdict in verdicts(frame)] if (frame["kind"] == FINAL).any() else []
    write(file, lines({"verdicts": found, "studies": {study: as_data(own) for study, own in runs.items()}}))
    write(DATA.with_suffix(".csv"), frame.to_csv(index=False))
    write(PAGE, page)
    if given.report:
        every = {name: run for own in runs.values() for name, run in own.items()}
        write(REPORT, page_of(frame, every, "SmolLM2-135M on ARC-Easy and OpenBookQA"))
    print(f"{PAGE}: {len(frame)} runs")


if __name__ == "__main__":
    main()
