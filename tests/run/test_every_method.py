"""Every method through `subspace train`: what is saved is the best checkpoint, an interruption changes nothing."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import tiny
from subspace_tuning import METHODS
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

SMALL = {"tokens": 3, "h": 8, "r": 2, "init_r": 3}
NAMES = sorted(METHODS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every")
    tiny.model(folder / "model", num_hidden_layers=1)
    tiny.data(folder / "data", train=32, validation=8)
    return folder


def recipe_of(home, name, out):
    method = METHODS[name]()
    fields = {k: v for k, v in SMALL.items() if type(getattr(method, k, None)) is type(v)}
    values = {"method": {"name": name, **fields}, "batch_size": 8, "max_steps": 3, "evaluate_every": 1}
    return make(tiny.recipe(home, **values, checkpoint="best", learning_rate=0.05, output=str(out)))


class Notes(TrainerCallback):
    """The scores of all steps, and what a model said at each."""

    def __init__(self, stop_at=None):
        self.logits, self.stop_at = {}, stop_at

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        self.logits[state.global_step] = said(model)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop_at:
            raise KeyboardInterrupt

    def on_train_end(self, args, state, control, **kwargs):
        self.best = int(state.best_model_checkpoint.rpartition("-")[2])


def said(model):
    ids = torch.arange(5, 15).view(2, 5)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_best_is_saved_and_resuming_is_going_on(name, home, tmp_path):
    whole, first, second = Notes(), Notes(stop_at=2), Notes()
    run(recipe_of(home, name, tmp_path / "whole"), callbacks=[whole])
    kept = said(Predictor(tmp_path / "whole").model)
    torch.testing.assert_close(kept, whole.logits[whole.best], rtol=1e-5, atol=1e-6)
    if METHODS[name]().calibration:
        return  # what is drawn for its pass changes the order of the rows: see test_resume.py
    with pytest.raises(KeyboardInterrupt):
        run(recipe_of(home, name, tmp_path / "cut"), callbacks=[first])
    assert run(recipe_of(home, name, tmp_path / "cut"), callbacks=[second]).resumed_from_step == 1
    assert second.best == whole.best
    for step in (2, 3):
        assert torch.equal(second.logits[step], whole.logits[step]), step
    here, there = (load_file(tmp_path / run / "adapter/adapter_model.safetensors") for run in ("whole", "cut"))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[k], there[k]) for k in here)
