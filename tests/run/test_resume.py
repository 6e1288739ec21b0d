"""A run that was interrupted, wherever it was, comes to the same weights, bit for bit."""

import json

import pytest
from transformers import TrainerCallback

from subspace_tuning import METHODS
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import recipe

EVENTS = ("on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_evaluate", "on_save", "on_epoch_end", "on_log")


class Cut(TrainerCallback):
    """Ends the run as a kill would, when an event comes at or after a step."""

    def __init__(self, event, step):
        self.step = step
        setattr(self, event, self._cut)

    def _cut(self, args, state, control, **kwargs):
        if state.global_step >= self.step:
            raise KeyboardInterrupt


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
    recipe(folder)
    return folder


def values_of(home, tmp_path, changes):
    return recipe(
        home, **{"method": {"name": "lora", "r": 2}, "log_every": 3, "output": str(tmp_path / "run")} | changes
    )


def cut_and_resumed(values, cuts, tmp_path, whole):
    for event, step in cuts:
        again = {**values, "output": str(tmp_path / f"{event}-{step}")}
        try:
            run(make(again), callbacks=[Cut(event, step)])
        except KeyboardInterrupt:
            pass
        else:
            continue  # the event does not come after that step
        result = run(make(again))
        assert weights(tmp_path / f"{event}-{step}") == weights(tmp_path / "run"), (event, step)
        assert told(tmp_path / f"{event}-{step}") == told(tmp_path / "run"), (event, step)
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
    values = values_of(home, tmp_path, SETTINGS[setting])
    whole = run(make(values))
    cuts = [("on_step_end", 4), ("on_step_begin", 7), ("on_save", 6), ("on_evaluate", 6), ("on_save", whole.steps)]
    cut_and_resumed(values, cuts, tmp_path, whole)


@pytest.mark.parametrize("event", EVENTS)
def test_wherever_it_was(home, tmp_path, event):
    values = values_of(home, tmp_path, {"save_every": 2, "checkpoint": "last"})
    whole = run(make(values))
    cut_and_resumed(values, [(event, step) for step in (1, 5, 6, 8, 11)], tmp_path, whole)


AT_WORK = {name: cls() for name, cls in sorted(METHODS.items()) if cls.sits_on != "tokens"}
STARTED = [name for name, method in AT_WORK.items() if method.stored(16, 16) or method.on_step or method.calibration]
STARTED += [{"name": "lora", "init": init} for init in ("eva", "lora_ga", "corda")]


@pytest.mark.parametrize("name", STARTED)
def test_methods_that_look_at_data_or_store_numbers(home, tmp_path, name):
    values = values_of(home, tmp_path, {"method": name, "save_every": 2, "epochs": 1})
    whole = run(make(values))
    cut_and_resumed(values, [("on_step_end", 3)], tmp_path, whole)
