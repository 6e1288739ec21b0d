"""The finished runs of a study, kept in one JSON with config and result, so that it goes on in pieces on any machine.

Runs that are no longer on disk stay kept; ``restore`` writes them where the sweep looks for finished ones.
"""

import json
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from subspace_tuning.files.aside import write
from subspace_tuning.report.build import Source
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.recipe import Recipe, make
from subspace_tuning.sweep.plan import FINAL, RATE, TUNING, Candidate, Cell, Plan, Run
from subspace_tuning.sweep.results import runs_below, tabulated
from subspace_tuning.sweep.tuning import best
from subspace_tuning.version import VERSION

DECISIVE = ("torch", "transformers", "peft")  # versions that a sweep's runs go by
ALIKE = {"0.1.0", "0.2.0"}  # versions of this package that train alike
Kept = dict[str, tuple[Recipe, Result]]  # by the name of a run: FINAL/... or TUNING/...


def planned(plan: Plan) -> dict[str, Run]:
    """The digest of every recipe that a study may come to run -> that run."""
    runs = (run for cell in plan.cells for run in plan.tuning_runs(cell) + plan.final_runs(cell, cell.candidates))
    return {run.recipe.digest(): run for run in runs}


def on_disk(folder: Path) -> Kept:
    """The finished runs of a sweep's folder."""
    found = {}
    for path in runs_below(folder):
        run = RunFolder(path)
        if (result := run.result()) is not None:
            recipe = run.recipe()
            found[name_of(recipe, result)] = recipe, result
    return found


def name_of(recipe: Recipe, result: Result) -> str:
    """The same for a run wherever it was made."""
    return f"{TUNING if result.hold_out else FINAL}/{recipe.digest()}"


def committed(data: dict, study: str) -> Kept:
    """The runs that the data holds: what all configs share is said once."""
    held = data.get(study, {"shared": {}, "runs": []})
    runs = [(make(held["shared"] | run["config"]), Result(**run["result"])) for run in held["runs"]]
    return {name_of(*run): run for run in runs}


def as_data(runs: Kept) -> dict:
    """What ``committed`` reads, without what is as usual in every recipe."""
    usual = make({}).model_dump(mode="json")
    dumped = [recipe.model_copy(update={"output": None}).model_dump(mode="json") for recipe, _ in runs.values()]
    configs = [{k: v for k, v in config.items() if k not in usual or usual[k] != v} for config in dumped]
    first = configs[0] if configs else {}
    shared = {k: v for k, v in first.items() if all(k in c and c[k] == v for c in configs)}
    own = [{k: v for k, v in config.items() if k not in shared} for config in configs]
    results = [asdict(result) for _, result in runs.values()]
    return {"shared": shared, "runs": [{"config": c, "result": r} for c, r in zip(own, results, strict=True)]}


def lines(data: dict) -> str:
    """JSON with a line a run."""
    studies = [
        f'{json.dumps(study)}: {{"shared": {json.dumps(own["shared"])},\n"runs": ['
        + ",\n".join(json.dumps(run) for run in own["runs"])
        + "]}"
        for study, own in data["studies"].items()
    ]
    return f'{{"verdicts": {json.dumps(data["verdicts"])},\n"studies": {{{", ".join(studies)}}}}}\n'


def restore(kept: Kept, plan: Plan) -> tuple[int, int]:
    """Write result folders where the sweep looks for them; how many, and how many were made by other versions.

    The folder's name is that of today: a recipe may have got keys since, whose defaults change nothing.
    """
    here = {name: version(name) for name in DECISIVE}
    written = others = 0
    for recipe, result in kept.values():
        own = result.versions.get("subspace-tuning", "")
        other = own != VERSION and not {own, VERSION} <= ALIKE
        if other or any(of(result.versions.get(name, "")) != of(there) for name, there in here.items()):
            others += 1
            continue
        run = Run.of(recipe, TUNING if result.hold_out else FINAL, plan.folder)
        if not run.is_finished:
            write(run.folder / "config.yaml", run.recipe.dump())
            again = replace(result, config_hash=run.recipe.digest())
            write(run.folder / "result.json", again.to_json() + "\n")
            written += 1
    return written, others


def of(version: str) -> str:
    """Builds of one version for other devices count as the same."""
    return version.partition("+")[0]


def counted(runs: Kept, plan: Plan, study: str | None = None) -> pd.DataFrame:
    """The planned runs as a table, with ``study`` as task if given; finals of the candidate that tuning chose alone."""
    chosen, known = choices(runs, plan), planned(plan)
    for cell in plan.cells:
        left = tuple(c for c in cell.candidates if c != chosen.get(key_of(cell), c))
        for run in plan.final_runs(cell, left) if left else ():
            del known[run.recipe.digest()]
    own = {name: run for name, run in runs.items() if run[0].digest() in known}
    frame = tabulated({name: result for name, (_, result) in own.items()})
    if study is not None:
        frame["task"] = study
    for field in tuned(plan)[1:]:
        frame[field] = [getattr(own[name][0], field) for name in frame["run"]]
    return frame.reset_index(drop=True)


def tuned(plan: Plan) -> list[str]:
    """The fields that some contender tunes, the learning rate first."""
    return list(dict.fromkeys([RATE, *(key for cell in plan.cells for c in cell.candidates for key, _ in c)]))


def key_of(cell: Cell) -> tuple[str, str]:
    return cell.some.task, cell.label


def choices(runs: Kept, plan: Plan) -> dict[tuple[str, str], Candidate]:
    """What the tuning runs that are there choose for each contender."""
    came_to = {recipe.digest(): result.score for recipe, result in runs.values() if result.hold_out}
    found = {}
    for cell in plan.cells:
        scores: dict[Candidate, list[float | None]] = {}
        tried = [c for c in cell.candidates for _ in plan.sweep.tuning.seeds]
        for candidate, run in zip(tried, plan.tuning_runs(cell), strict=True):
            if run.recipe.digest() in came_to:
                scores.setdefault(candidate, []).append(came_to[run.recipe.digest()])
        if (chosen := best(scores)) is not None:
            found[key_of(cell)] = chosen
    return found


def page_of(frame: pd.DataFrame, runs: Kept, title: str) -> str:
    """The report of a table of kept runs, with their configs."""
    with TemporaryDirectory() as folder:
        for name, (recipe, _) in runs.items():
            path = Path(folder, name)
            path.mkdir(parents=True)
            write(path / "config.yaml", recipe.dump())
        table = Path(folder, "runs.csv")
        write(table, frame.to_csv(index=False))
        return Source(table, title).build()


def taken_up(kept: Kept, folder: Path) -> Kept:
    """What is kept, and what the folder has beside."""
    return kept | (on_disk(folder) if folder.is_dir() else {})


def restored(kept: Kept, plan: Plan) -> str:
    """``restore``, in words."""
    written, others = restore(kept, plan)
    told = f"; {others} were made by other versions, and the sweep runs them again" if others else ""
    return f"{plan.folder}: {written} runs written{told}"
