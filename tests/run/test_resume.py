"""A run that was interrupted, wherever it was, comes to the same weights, bit for bit (methods: test_every_method)."""

import json

import pytest
from transformers import TrainerCallback

from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import data, model, recipe

EVENTS = ("on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_evaluate", "on_save", "on_epoch_end", "on_log")


class Cut(TrainerCallback):
    """Ends the run as a kill would, when an event comes at or after a step."""

    def __init__(self, event, step):
        self.step = step
        setattr(self, event, self._cut)

    def _cut(self, args, state, control, **kwargs):
        if state.global_step >= self.step:
            raise KeyboardInterrupt


class Came(TrainerCallback):
    """Notes the events of a run, in order, each with its step."""

    def __init__(self):
        self.noted = []
        for event in EVENTS:
            setattr(self, event, lambda args, state, control, event=event, **kwargs: self._note(event, state))

    def _note(self, event, state):
        self.noted.append((event, state.global_step))

    def in_order(self, cuts):
        """Those cuts that come, as they come; of those that come at the same moment one."""
        at = {}
        for event, step in cuts:
            if moments := [i for i, (name, reached) in enumerate(self.noted) if name == event and reached >= step]:
                at[moments[0]] = (event, step)
        return [at[i] for i in sorted(at)]


def weights(folder):
    (kind,) = [path for path in (folder / "adapter", folder / "model") if path.is_dir()]
    return {p.name: p.read_bytes() for p in kind.glob("*.safetensors")}


def told(folder):
    """Steps and scores of the evaluations, in order."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["eval_accuracy"]) for line in lines if "eval_accuracy" in line]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    model(folder / "model", num_hidden_layers=1)
    data(folder / "data")
    return folder


def values_of(home, folder, changes):
    return recipe(home, **{"method": {"name": "lora", "r": 2}, "log_every": 3, "output": str(folder)} | changes)


def undisturbed(home, folder, changes):
    """A run to its end: its result and the events that came."""
    came = Came()
    return run(make(values_of(home, folder, changes)), callbacks=[came]), came


def cut_again_and_again(home, folder, changes, cuts):
    """One run that is cut at each of the moments, and goes on each time from where it was cut before.

    Nothing that one of them lost would come back: the weights of the end are those of the whole way.
    """
    values = values_of(home, folder, changes)
    for event, step in cuts:
        with pytest.raises(KeyboardInterrupt):
            run(make(values), callbacks=[Cut(event, step)])
    return run(make(values))


def assert_same(one, other, result, whole):
    assert weights(one) == weights(other)
    assert told(one) == told(other)
    assert (result.score, result.steps) == (whole.score, whole.steps)


SETTINGS = {
    "as usual": {"save_every": 2},
    "in random order": {"save_every": 2, "group_by_length": False},
    "accumulating": {"save_every": 2, "gradient_accumulation": 2, "batch_size": 8},
    "accumulating with a rest": {"save_every": 1, "gradient_accumulation": 5, "batch_size": 7},
    "the best of steps": {"checkpoint": "best", "evaluate_every": 2, "epochs": 3},
    "the best of epochs, stopping early": {"checkpoint": "best", "early_stopping": 1, "epochs": 5},
    "the best of steps, stopping early": {"checkpoint": "best", "early_stopping": 2, "evaluate_every": 4, "epochs": 4},
    "evaluated between": {"evaluate_every": 4, "save_every": 3},
    "judged at the end": {"evaluate_every": "end", "save_every": 2},
    "so many steps": {"max_steps": 9, "save_every": 4},
    "so many steps, the best": {"max_steps": 9, "checkpoint": "best", "evaluate_every": 2},
    "saved at epochs": {"save_every": "epoch", "epochs": 3},
    "all weights": {"save_every": 2, "method": "full", "learning_rate": 1e-3},
    "another optimiser": {"save_every": 2, "trainer": {"optim": "adafactor", "lr_scheduler_type": "cosine"}},
    "LoRA-RITE": {"save_every": 2, "optimizer": "lora_rite", "weight_decay": 0.01},
    "Riemannian": {"save_every": 2, "optimizer": {"name": "riemannian", "damping": 0.1}},
    "from the plateau on": {"save_every": 3, "trainer": {"lr_scheduler_type": "reduce_lr_on_plateau"}},
    "in half precision": {"save_every": 2, "bf16": True, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_resumed_is_undisturbed(home, tmp_path, setting):
    whole, came = undisturbed(home, tmp_path / "whole", SETTINGS[setting])
    cuts = [("on_step_end", 4), ("on_step_begin", 7), ("on_save", 6), ("on_evaluate", 6), ("on_save", whole.steps)]
    cuts = came.in_order(cuts)
    assert len(cuts) >= 3
    result = cut_again_and_again(home, tmp_path / "cut", SETTINGS[setting], cuts)
    assert_same(tmp_path / "cut", tmp_path / "whole", result, whole)


WHEREVER = {"save_every": 2, "checkpoint": "last"}


@pytest.fixture(scope="module")
def calm(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm") / "whole"
    return folder, *undisturbed(home, folder, WHEREVER)


@pytest.mark.parametrize("event", EVENTS)
def test_wherever_it_was(home, tmp_path, calm, event):
    folder, whole, came = calm
    cuts = came.in_order([(event, step) for step in (1, 5, 6, 8, 11)])
    assert len(cuts) >= 2
    result = cut_again_and_again(home, tmp_path / "cut", WHEREVER, cuts)
    assert_same(tmp_path / "cut", folder, result, whole)
