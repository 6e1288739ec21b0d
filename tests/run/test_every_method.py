"""Every method through `subspace train`: what is saved is the best checkpoint, an interruption changes nothing.

A run is killed by a copy of its folder at that moment, from which another goes on.
"""

from shutil import copytree, ignore_patterns

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import tiny
from subspace_tuning import METHODS
from subspace_tuning.files.claims import CLAIM
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

SMALL = {"tokens": 3, "h": 8, "r": 2, "init_r": 3}
FROM_DATA = [{"name": "lora", "init": init} for init in ("eva", "lora_ga", "lora_one", "corda")]


def small(name):
    method = METHODS[name]()
    return {"name": name} | {k: v for k, v in SMALL.items() if type(getattr(method, k, None)) is type(v)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every")
    tiny.model(folder / "model", num_hidden_layers=1)
    tiny.data(folder / "data", train=32, validation=8)
    return folder


def recipe_of(home, method, out):
    values = {"method": method, "batch_size": 8, "max_steps": 3, "evaluate_every": 1}
    return make(tiny.recipe(home, **values, checkpoint="best", learning_rate=0.05, output=str(out)))


class Notes(TrainerCallback):
    """The scores of all steps, and what a model said at each; a copy of the folder as it was after the second."""

    def __init__(self, folder=None, copy=None):
        self.logits, self.folder, self.copy = {}, folder, copy

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        self.logits[state.global_step] = said(model)

    def on_step_end(self, args, state, control, **kwargs):
        if self.copy and state.global_step == 2:
            copytree(self.folder, self.copy, ignore=ignore_patterns(CLAIM))

    def on_train_end(self, args, state, control, **kwargs):
        self.best = int(state.best_model_checkpoint.rpartition("-")[2])


def said(model):
    ids = torch.arange(5, 15).view(2, 5)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize(
    "method", [*map(small, sorted(METHODS)), *FROM_DATA], ids=lambda m: "-".join(map(str, m.values()))
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_best_is_saved_and_resuming_is_going_on(method, home, tmp_path):
    whole, second = Notes(tmp_path / "whole", tmp_path / "cut"), Notes()
    run(recipe_of(home, method, tmp_path / "whole"), callbacks=[whole])
    kept = said(Predictor(tmp_path / "whole").model)
    torch.testing.assert_close(kept, whole.logits[whole.best], rtol=1e-5, atol=1e-6)
    assert run(recipe_of(home, method, tmp_path / "cut"), callbacks=[second]).resumed_from_step == 1
    assert second.best == whole.best
    for step in (2, 3):
        assert torch.equal(second.logits[step], whole.logits[step]), step
    here, there = (load_file(tmp_path / run / "adapter/adapter_model.safetensors") for run in ("whole", "cut"))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[k], there[k]) for k in here)
