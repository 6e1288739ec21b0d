"""Runs that have several GPUs, or a share of one; and one of two processes, as torchrun starts them."""

import json
import shutil
import sys

import pytest
import torch

from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import make as recipe_of
from subspace_tuning.run.train import run as trained
from subspace_tuning.sweep.plan import Run
from subspace_tuning.sweep.pool import _accelerators, usual_jobs
from subspace_tuning.sweep.recipe import make
from subspace_tuning.sweep.shelf import train_together
from tiny import data, model, recipe


@pytest.mark.parametrize(
    ("gpus", "seen"),
    [
        (0, ["4", "5", "6", "7"]),
        (2, ["4,5", "6,7"]),
        (3, ["4,5,6"]),
        (0.5, ["4", "5", "6", "7"] * 2),
        (0.3, ["4", "5", "6", "7"] * 3),
    ],
)
def test_workers_share_the_gpus(monkeypatch, gpus, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    jobs = usual_jobs(["minilm"], gpus)
    given = [_accelerators(index, jobs, gpus) for index in range(jobs)]
    assert [devices for devices, _ in given] == seen
    assert {memory for _, memory in given} == {gpus if 0 < gpus < 1 else 1.0}
    with pytest.raises(BadInput, match="a run is to have 5 GPUs, and this machine has 4"):
        usual_jobs(["minilm"], 5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpus_per_run": 1.5}, "a whole number, or a share of one GPU below 1"),
        ({"gpus_per_run": 0}, "gpus_per_run"),
        (
            {"gpus_per_run": 2, "tuning": {"seeds": [9], "search": {"optuna": {"trials": 4}}}},
            "optuna cuts runs short from within",
        ),
    ],
)
def test_shares_that_are_none_are_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        make({"output": "here", "methods": ["ssb"], "tasks": ["rte"], **changes})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpus")
    model(folder / "model", num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data(folder / "data")
    return folder


def planned(home, name, **changes):
    """A run of a sweep, its folder open as a worker opens it."""
    given = recipe_of(recipe(home, output=str(home / name), log_every=1, epochs=1, **changes)).resolved()
    made = Run(given, "final")
    RunFolder(made.folder).open(given)
    return made


def test_a_run_of_two_processes_comes_to_what_one_comes_to(home):
    together = train_together(planned(home, "together"), 2)
    alone = trained(recipe_of(recipe(home, output=str(home / "alone"), log_every=1, epochs=1)))
    assert (together.score, together.steps, together.trainable) == (alone.score, alone.steps, alone.trainable)
    ours, theirs = [(home / name / "metrics.jsonl").read_text().splitlines() for name in ("together", "alone")]
    for mine, other in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        assert mine.get("loss") == pytest.approx(other.get("loss"), abs=1e-4)


def test_a_run_whose_processes_fail_is_told(home, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RunFailed, match=r"its 2 processes ended with code 1; .*log\.txt says why"):
        train_together(planned(home, "failed"), 2)
