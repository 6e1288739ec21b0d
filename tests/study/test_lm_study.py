"""The studies of a language model go on in pieces: what was run is kept, and restored where a sweep looks for it."""

import dataclasses
import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from studies import runs as made_up
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.sweep.plan import FINAL, Plan
from subspace_tuning.sweep.recipe import read_sweep
from subspace_tuning.sweep.results import gather
from subspace_tuning.sweep.sweep import Sweep
from subspace_tuning.version import VERSION

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import kept_runs  # noqa: E402
import lm_study  # noqa: E402
import minilm_long  # noqa: E402
from minilm_glue import outcome  # noqa: E402

SOME = next(made_up(1)).result
LEVEL = {"none": (0.5, 0.0), "full": (0.6, 0.2), "lora(r=8)": (0.59, 0.05), "ssb": (0.58, 0.01), "oft": (0.57, 0.001)}


@pytest.fixture(scope="module")
def plans():
    return {study: Plan(read_sweep(ROOT / recipe)) for study, recipe in lm_study.STUDIES.items()}


def result(run):
    """A result of a run that nobody has run."""
    recipe = run.recipe
    score, forgotten = LEVEL[recipe.method_label]
    score += 0.001 * recipe.seed - abs(0.01 - recipe.learning_rate) * (recipe.method_label != "none")
    about = {"metric": "bits_per_byte", "greater_is_better": False, "before": 1.6, "rows": 9, "metrics": {}}
    kept = {"bits_per_byte editorials": about | {"after": 1.6 + forgotten, "difference": forgotten}}
    here = {name: version(name) for name in ("torch", "transformers", "peft")} | {"subspace-tuning": VERSION}
    own = {"method": recipe.method_label, "task": "sft", "model": recipe.model, "seed": recipe.seed, "score": score}
    own |= {"learning_rate": recipe.learning_rate, "hold_out": recipe.hold_out, "versions": here}
    own |= {"retention": {} if recipe.hold_out else kept, "config_hash": recipe.digest(), "category": "extension"}
    return dataclasses.replace(SOME, **own)


@pytest.fixture(scope="module")
def kept(plans):
    """For each study all runs of five contenders, with finals at every rate, as where a grid was extended."""
    found = {}
    for study, plan in plans.items():
        cells = [cell for cell in plan.cells if cell.label in LEVEL]
        finals = [run for cell in cells for run in plan.final_runs(cell, cell.candidates[-2:])]
        runs = [*(run for cell in cells for run in plan.tuning_runs(cell)), *finals]
        found[study] = {kept_runs.name_of(run.recipe, result(run)): (run.recipe, result(run)) for run in runs}
    return found


def test_both_studies_are_fair_and_alike(plans):
    one, other = plans.values()
    assert [cell.label for cell in one.cells] == [cell.label for cell in other.cells]
    for plan in plans.values():
        assert {len(plan.tuning_runs(cell)) for cell in plan.cells if cell.takes_steps} == {3}
        assert {len(plan.final_runs(cell, ())) for cell in plan.cells} == {3}
    assert one.cells[0].some.max_steps == other.cells[0].some.max_steps


def test_kept_runs_are_restored_and_not_run_again(plans, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study, plan = "ARC-Easy", plans["ARC-Easy"]
    read = kept_runs.committed(json.loads(kept_runs.lines({"verdicts": [], "studies": {
        name: kept_runs.as_data(own) for name, own in kept.items()
    }}))["studies"], study)  # fmt: skip
    assert {name: result for name, (_, result) in read.items()} == {n: r for n, (_, r) in kept[study].items()}
    written, others = kept_runs.restore(read, plan)
    assert (written, others) == (len(read), 0)
    assert kept_runs.restore(read, plan) == (0, 0)
    sweep = Sweep(read_sweep(ROOT / lm_study.STUDIES[study]))
    assert {s.name: s.finished for s in sweep.stages()} == {"tuning": 12, "final": 3}, "no rate is chosen yet"
    for cell in sweep.plan.cells:
        if cell.label in LEVEL and cell.takes_steps:
            sweep.choices.make(cell)
            assert all(run.is_finished for run in sweep.final_runs(cell)) == (
                sweep.choices.of(cell) != cell.candidates[0]
            )
    assert len(gather(plan.folder)) == len(read)
    assert RunFolder(next(plan.folder.glob("final/*ssb*"))).recipe().method_label == "ssb"
    assert kept_runs.name_of(*next(iter(kept_runs.on_disk(plan.folder).values()))) in read


def test_runs_of_other_versions_are_not_restored(plans, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, (recipe, result) = next(iter(kept["ARC-Easy"].items()))
    older = dataclasses.replace(result, versions=result.versions | {"torch": "1.0"})
    assert kept_runs.restore({name: (recipe, older)}, plans["ARC-Easy"]) == (0, 1)
    assert not plans["ARC-Easy"].folder.exists()


def test_the_outcome_of_an_unfinished_study(plans, kept):
    import pandas as pd

    frame = pd.concat([lm_study.alike(kept[study], plan, study) for study, plan in plans.items()])
    finals = frame[frame["kind"] == FINAL]
    assert finals.groupby(["task", "label"])["learning_rate"].nunique().max() == 1, "one rate a contender"
    told = lm_study.outcome(frame, plans)
    assert "ARC-Easy: **not finished**" in told
    assert "12 of 33 tuning runs" in told
    assert "`flora(r=8)`" in next(line for line in told.splitlines() if "Not judged yet" in line)
    assert "| `ssb` | " in told
    assert "**gains**" in told
    assert "**forgets**" in told
    assert "the lowest" in told or "the highest" in told
    assert "bits per byte editorials, the base before training: ARC-Easy study 1.6000" in told
    assert "SSB reaches 99 % of full fine-tuning" in told
    nothing = lm_study.outcome(frame.iloc[:0], plans)
    assert "0 of 36 final runs" in nothing
    assert "###" not in nothing


def test_what_a_recipe_does_not_plan_does_not_count(plans, kept):
    study = "ARC-Easy"
    name, (recipe, result) = next(iter(kept[study].items()))
    longer = recipe.model_copy(update={"max_steps": 7})
    assert len(lm_study.alike({name: (longer, result)}, plans[study], study)) == 0
    assert len(lm_study.alike({}, plans[study], study)) == 0


def test_a_study_of_two_tasks_is_kept_and_told_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan(read_sweep(ROOT / minilm_long.RECIPE))
    cells = [cell for cell in plan.cells if cell.label in ("full", "ssb")]
    assert {len(plan.tuning_runs(cell)) for cell in plan.cells} == {4}
    runs = [run for cell in cells for run in plan.tuning_runs(cell) + plan.final_runs(cell, cell.candidates[-2:])]
    own = [(r.recipe, dataclasses.replace(result(r), task=r.recipe.task, hold_out=r.kind != FINAL)) for r in runs]
    frame = kept_runs.counted({kept_runs.name_of(*run): run for run in own}, plan)
    chosen = frame[frame["kind"] == FINAL].groupby(["task", "label"])["learning_rate"]
    assert set(chosen.nunique()) == {1}, "each task has a choice of its own"
    assert set(frame["task"]) == {"sst2", "stsb"}
    told = outcome(frame, minilm_long.wanted(plan))
    assert "**Not finished**" in told
    assert f"{len(frame[frame['kind'] != FINAL])} of 72 tuning" in told
    assert "SSB reaches 99 % of full fine-tuning" in told
