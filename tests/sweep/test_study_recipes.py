"""The sweeps of recipes/ that a study stands on: runs of theirs, shrunk to a tiny model, few rows and two steps."""

from functools import cache
from pathlib import Path

import pytest
import yaml

import tiny
import tiny_sft
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.sweep.plan import Plan
from subspace_tuning.sweep.recipe import read_sweep
from subspace_tuning.tasks import task_of

RECIPES = Path(__file__).parents[2] / "recipes"
GLUE = [("minilm_glue", task) for task in ("sst2", "stsb", "cola", "rte")] + [("minilm_long", "sst2")]


@cache
def planned(name):
    return Plan(read_sweep(RECIPES / f"{name}.yaml"))


def some(name, task):
    """The first run that is tuned and the first final one, of the sweep's last contender for a task that trains."""
    plan = planned(name)
    cell = [cell for cell in plan.cells if cell.some.task == task and cell.takes_steps][-1]
    return [plan.tuning_runs(cell)[0].recipe, plan.final_runs(cell, ())[0].recipe]


def shrunk(recipe, folder, **changes):
    less = {"model": str(folder / "model"), "data": str(folder / "data"), "output": str(folder / "run")}
    less |= {"max_steps": 2, "train_samples": None}
    return make({**yaml.safe_load(recipe.dump()), **less, **changes})


@pytest.mark.filterwarnings("ignore::subspace_tuning.tasks.metrics.Undefined")
@pytest.mark.parametrize(("name", "task"), GLUE)
def test_studies_of_classifiers(name, task, tmp_path):
    tiny.model(tmp_path / "model")
    columns = task_of(task).columns
    for part, size in (("train", 40), ("validation", 20)):
        rows = [(r["label"], r["text"], r["other"]) for r in tiny.rows(size)]
        content = [dict(zip(("label", *columns), row, strict=False)) for row in rows]
        tiny.jsonl(tmp_path / "data" / task / f"{part}.jsonl", content)
    _, final = some(name, task)
    assert run(shrunk(final, tmp_path, max_length=32)).steps == 2


@pytest.mark.parametrize("name", ["lm_study", "lm_study_openbookqa"])
def test_studies_of_language_models(name, tmp_path):
    """Its own judgements stay; what it is kept from forgetting are other texts here."""
    tiny_sft.model(tmp_path / "model", max_position_embeddings=1024)
    tiny_sft.data(tmp_path / "data", tiny_sft.choices)
    text = tiny_sft.write(tmp_path / "text.jsonl", [{"text": "the cat"}])
    tuned, final = some(name, "sft")
    kept = [{"judge": "bits_per_byte", "name": "kept", "data": str(text)}]
    assert (tuned.hold_out, tuned.retention, len(final.retention)) == (True, [], 2)
    assert run(shrunk(tuned, tmp_path)).steps == 2
    result = run(shrunk(final, tmp_path, output=str(tmp_path / "final"), retention=kept))
    assert set(result.retention) == {"kept"}
