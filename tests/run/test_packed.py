"""Laws of packed runs: each ends as it would alone, in a folder of its own."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cases import each
from subspace_tuning.errors import BadInput
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.packed import train_packed
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import data, model, recipe

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # masks would be drawn for all rows at once
RUNS = [
    {"method": "ssb", "seed": 0},
    {"method": {"name": "lora", "r": 2}, "seed": 1, "learning_rate": 0.003, "schedule": "cosine", "mpc": "o"},
    {"method": "dora", "seed": 2, "batch_size": 8, "max_steps": 9, "weight_decay": 0.1},
    {"method": "lora", "seed": 3, "batch_size": 12, "epochs": 3},
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The results of runs alone and packed, and their folders."""
    folder = tmp_path_factory.mktemp("packed")
    model(folder / "model", **CALM)
    data(folder / "data")
    made = {
        kind: [
            make(recipe(folder, evaluate_every="end", **r, output=str(folder / f"{kind}{i}")))
            for i, r in enumerate(RUNS)
        ]
        for kind in ("alone", "packed")
    }
    return [run(r) for r in made["alone"]], train_packed(made["packed"]), folder


@each(i=list(range(len(RUNS))))
def test_a_packed_run_ends_where_it_would_alone(both, i):
    alone, packed, folder = both
    first, second = (
        load_file(folder / f"{kind}{i}" / "adapter" / "adapter_model.safetensors") for kind in ("alone", "packed")
    )
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-3, atol=2e-5)
    for name in ("method", "category", "task", "metric", "seed", "learning_rate", "steps", "config_hash"):
        assert getattr(packed[i], name) == getattr(alone[i], name)
    for name in ("trainable", "trainable_with_head", "total", "permille", "score"):
        assert getattr(packed[i], name) == pytest.approx(getattr(alone[i], name))


@each(i=list(range(len(RUNS))))
def test_its_folder_is_a_finished_run(both, i):
    _, packed, folder = both
    path = folder / f"packed{i}"
    assert sorted(p.name for p in path.iterdir()) == ["adapter", "config.yaml", "metrics.jsonl", "result.json"]
    assert RunFolder(path).result() == packed[i]
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_accuracy" in line for line in lines)
    assert sorted(p.name for p in (path / "adapter").iterdir()) == sorted(
        p.name for p in (folder / f"alone{i}" / "adapter").iterdir()
    )


@each(
    change=[
        {"max_length": 16},
        {"method": "full"},
        {"method": "adalora"},
        {"method": "fishmask"},
        {"gradient_accumulation": 2},
        {"checkpoint": "best", "evaluate_every": "epoch"},
        {"output": "OTHER"},
    ]
)
def test_runs_that_do_not_go_together_are_refused_and_leave_nothing(tmp_path, change):
    plain = recipe(tmp_path, output=str(tmp_path / "a"), evaluate_every="end")
    other = {**plain, "output": str(tmp_path / "b"), **change}
    if change.get("output"):
        other["output"] = plain["output"]
    with pytest.raises(BadInput):
        train_packed([make(plain), make(other)])
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
