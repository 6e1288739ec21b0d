"""Optimisers that know the factors, in recipes."""

import pytest
from safetensors.torch import load_file

from subspace_tuning.errors import BadInput
from subspace_tuning.run.recipe import make, override
from subspace_tuning.run.train import run
from tiny import recipe

LORA = {"name": "lora", "r": 2}


def test_the_optimiser_of_the_recipe_is_the_one_that_trains(tmp_path):
    made = {}
    for name in ("adamw", "lora_plus"):
        run(make(recipe(tmp_path, method=LORA, optimizer=name, epochs=1, output=str(tmp_path / name))))
        made[name] = load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
    sizes = [sum(t.abs().sum() for k, t in tensors.items() if k.endswith(".B")) for tensors in made.values()]
    assert sizes[1] > 4 * sizes[0]  # B learns 16 times as fast


def test_fields_are_set_one_by_one():
    assert override({"optimizer": "lora_plus"}, ["optimizer.ratio=8"])["optimizer"] == {"name": "lora_plus", "ratio": 8}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "lora_pluss"}, "did you mean 'lora_plus'"),
        ({"optimizer": {"name": "muon", "rate": 1}}, "no field 'rate'"),
        ({"optimizer": "muon", "method": "ssb"}, "factors A and B"),
        ({"optimizer": "muon", "method": "full"}, "factors A and B"),
        ({"optimizer": "muon", "trainer": {"optim": "sgd"}}, "two optimisers"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_written(changes, says, tmp_path):
    with pytest.raises(BadInput, match=says):
        make({"method": LORA, **changes})


def test_a_library_that_is_missing_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("subspace_tuning.optim.registry.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install schedulefree"):
        run(make(recipe(tmp_path, method=LORA, optimizer="schedule_free")))
    assert not (tmp_path / "run").exists()
