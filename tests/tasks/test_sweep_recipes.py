"""The sweeps of recipes/ that measure kinds of tasks, each of their runs shrunk to a tiny model."""

from pathlib import Path

import pytest

import tiny
import tiny_pictures
from subspace_tuning.run import train
from subspace_tuning.sweep.plan import Plan
from subspace_tuning.sweep.recipe import read_sweep

RECIPES = Path(__file__).parents[2] / "recipes"
MODELS = {"digits_sweep": tiny_pictures.model, "similarity_sweep": tiny.model}


@pytest.mark.filterwarnings("ignore::subspace_tuning.tasks.metrics.Undefined")
@pytest.mark.parametrize("name", MODELS)
def test_every_run_of_a_sweep_that_measures(name, tmp_path):
    if name == "similarity_sweep":
        pytest.importorskip("sentence_transformers")
    told = read_sweep(RECIPES / f"{name}.yaml")
    less = {"max_steps": 1, "train_samples": 16, "eval_samples": 8, "bf16": False, "batch_size": 4}
    if name == "similarity_sweep":
        rows = [{"sentence1": r["text"], "sentence2": r["other"], "label": r["number"]} for r in tiny.rows(16)]
        for part in ("train", "validation"):
            tiny.jsonl(tmp_path / "data" / f"{part}.jsonl", rows)
        less |= {"data": str(tmp_path / "data"), "max_length": 32}
    else:
        less |= {"image_size": 16}
    where = {"output": str(tmp_path), "models": [str(MODELS[name](tmp_path / "model"))], "base": {**told.base, **less}}
    plan = Plan(told.model_copy(update=where))
    assert len(plan.cells) == len(told.tasks) * len(told.methods)
    for cell in plan.cells:
        first, *others = plan.final_runs(cell, cell.candidates[:1])
        assert len(others) == (2 if cell.takes_steps else 0), "the base comes to the same whatever the seed"
        assert train.run(first.recipe).metric == ("spearman" if name == "similarity_sweep" else "accuracy")
