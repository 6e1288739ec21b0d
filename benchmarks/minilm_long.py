"""What came out of recipes/minilm_long.yaml, into docs/study.md: MiniLM with runs five times as long, five seeds.

    python benchmarks/minilm_long.py --restore       # the finished runs of docs/data, as result folders
    subspace sweep recipes/minilm_long.yaml          # runs what is missing, any number of times
    python benchmarks/minilm_long.py                 # takes up what is new, writes data and page

Every finished run that the recipe plans is kept in docs/data/minilm_long.json, config and result, and as a row of
docs/data/minilm_long.csv; a study that is not finished is said to be so.
"""

import argparse
from pathlib import Path

from kept_runs import as_data, committed, counted, lines, restored, taken_up
from minilm_glue import outcome

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import with_table
from subspace_tuning.files.plain import read_object
from subspace_tuning.study.claims import verdicts
from subspace_tuning.study.reproduce import plain
from subspace_tuning.sweep.plan import FINAL, TUNING, Plan
from subspace_tuning.sweep.recipe import read_sweep

RECIPE, STUDY = Path("recipes/minilm_long.yaml"), "minilm_long"
PAGE, DATA, MARKER = Path("docs/study.md"), Path("docs/data/minilm_long"), "<!-- minilm long -->"


def wanted(plan: Plan) -> dict[str, int]:
    tuning = sum(len(plan.tuning_runs(cell)) for cell in plan.cells)
    return {TUNING: tuning, FINAL: len(plan.cells) * len(plan.sweep.seeds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=None, help="the sweep's folder; as the recipe says without it")
    parser.add_argument("--restore", action="store_true", help="write the committed runs as result folders, no more")
    given = parser.parse_args()
    plan = Plan(read_sweep(RECIPE))
    if given.runs and not given.runs.is_dir():
        raise BadInput(f"there is no folder {given.runs}")
    file = DATA.with_suffix(".json")
    data = read_object(file, "the data of the study") if file.is_file() else {}
    kept = committed(data.get("studies", {}), STUDY)
    if given.restore:
        print(restored(kept, plan))
        return
    runs = taken_up(kept, given.runs or plan.folder)
    frame = counted(runs, plan)
    page = with_table(PAGE.read_text(encoding="utf-8"), outcome(frame, wanted(plan)), MARKER, str(PAGE))
    found = [plain(verdict) for verdict in verdicts(frame)] if (frame["kind"] == FINAL).any() else []
    write(file, lines({"verdicts": found, "studies": {STUDY: as_data(runs)}}))
    write(DATA.with_suffix(".csv"), frame.to_csv(index=False))
    write(PAGE, page)
    print(f"{PAGE}: {len(frame)} of {sum(wanted(plan).values())} runs")


if __name__ == "__main__":
    main()
