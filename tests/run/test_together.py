"""Laws of a run's folder that more than one process wants, and of disks and memory that do not suffice."""

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from test_resume import weights
from transformers import TrainerCallback

from command import started, subspace
from disks import CODES, mounted, read_only, refusing
from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.files.aside import whole_file
from subspace_tuning.files.claims import Held
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.packed import train_packed
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    recipe(folder)
    return folder


def values_of(home, tmp_path, **changes):
    return recipe(home, **{"method": {"name": "lora", "r": 2}, "output": str(tmp_path / "run")} | changes)


class Then(TrainerCallback):
    """Does something in the middle of a run."""

    def __init__(self, action):
        self.action = action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.action()


def test_a_run_that_another_is_at_is_refused_and_left_alone(home, tmp_path):
    values = values_of(home, tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    refused = []

    def others():
        for again in (False, True):
            with pytest.raises(Held), RunFolder(values["output"]).held(make(values).resolved(), again):
                pass
            with pytest.raises(Held):
                train_packed([make(values)], again=again)
        other = started("train", tmp_path / "recipe.yaml", "--again", err=tmp_path / "said")
        other.join()
        refused.append((other.exitcode, (tmp_path / "said").read_text()))

    run(make(values), callbacks=[Then(others)])
    run(make({**values, "output": str(tmp_path / "alone")}))
    ((code, said),) = refused
    assert code == 2, said
    assert "another process is at" in said
    assert weights(tmp_path / "run") == weights(tmp_path / "alone")
    lines = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(lines)
    assert not (tmp_path / "run" / ".claim").exists()


def test_killed_at_any_moment_it_comes_to_the_same_weights(home, tmp_path):
    """SIGKILL at a handful of moments, through the command line."""
    values = values_of(home, tmp_path, epochs=6, save_every=2)
    run(make({**values, "output": str(tmp_path / "calm")}))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    metrics = tmp_path / "run" / "metrics.jsonl"
    for delay in (0.0, 0.05, 0.2):
        before = metrics.stat().st_size if metrics.is_file() else 0
        process = started("train", tmp_path / "recipe.yaml")
        while process.is_alive() and (metrics.stat().st_size if metrics.is_file() else 0) <= before:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.join()
    run(make(values))
    assert weights(tmp_path / "run") == weights(tmp_path / "calm")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {p.name for p in (tmp_path / "calm").iterdir()}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", CODES)
def test_a_disk_that_refuses_ends_in_a_sentence(home, tmp_path, monkeypatch, kind, again):
    values = values_of(home, tmp_path, epochs=1)
    refusing(monkeypatch, tmp_path, CODES[kind])
    with pytest.raises(RunFailed if kind == "full" else BadInput, match=r"cannot write|the disk is full") as caught:
        run(make(values), again=again)
    monkeypatch.undo()
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_real_disk_that_fills_up_or_cannot_be_written(home, tmp_path):
    with mounted(tmp_path / "disk", "size=220k") as disk:
        if disk is None:
            pytest.skip("this process may not mount")
        values = values_of(home, tmp_path, output=str(disk / "run"), method="full", save_every=1)
        with pytest.raises(RunFailed, match="the disk is full"):
            run(make(values))
        assert not (disk / "run" / "result.json").exists()
        assert all((p / "seal.json").is_file() for p in (disk / "run" / "checkpoints").glob("checkpoint-*"))
        assert not list((disk / "run").glob(".*.aside"))
        read_only(disk)
        for again in (False, True):
            with pytest.raises(BadInput, match="read-only"):
                run(make(values), again=again)


@pytest.mark.parametrize("place", ["file/run", "x" * 300, "file"])
def test_an_output_that_cannot_be(home, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="cannot write"):
        run(make(values_of(home, tmp_path, output=str(tmp_path / place))))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        ImportError("_fitpack.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("can't start new thread"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_names_what_helps(home, tmp_path, error):
    def fail():
        raise error

    values = values_of(home, tmp_path, bf16=True)
    with pytest.raises(RunFailed, match="memory ran out") as caught:
        run(make(values), callbacks=[Then(fail)])
    for knob in ("batch_size (16)", "gradient_accumulation (1)", "max_length", "gradient_checkpointing: true"):
        assert knob in str(caught.value)
    assert "bf16" not in str(caught.value), "it is set already"


def test_a_command_that_memory_runs_out_of_says_so(home, tmp_path, monkeypatch):
    run(make(values_of(home, tmp_path, max_steps=1)))
    monkeypatch.setattr("subspace_tuning.run.merged.Predictor", lambda *_, **__: bytearray(1 << 60))
    code, _, err = subspace("merge", tmp_path / "run", tmp_path / "out")
    assert code == 1
    assert "error: memory ran out; what helps" in err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"output_dir": "elsewhere"}, "'output'"),
        ({"save_steps": 3}, "'save_every'"),
        ({"save_only_model": True}, "resumed"),
        ({"prediction_loss_only": True}, "judged"),
        ({"optim": "no_such"}, "no_such"),
        ({"optim": "adamw_torch", "optim_args": "nonsense"}, "nonsense|unpack"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"nonsense": 1}}, "nonsense"),
        ({"lr_scheduler_type": "no_such"}, "no_such"),
    ],
    ids=str,
)
def test_trainer_keys_that_would_break_a_run_are_refused_before_anything_is_written(home, tmp_path, given, words):
    with pytest.raises(BadInput, match=words):
        run(make(values_of(home, tmp_path, trainer=given)))
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_first_file_stood_is_begun_again(home, tmp_path):
    """What the dead process was making lies there, and nothing else does."""
    recipe_of_it = make(values_of(home, tmp_path, max_steps=1))
    if (process := os.fork()) == 0:
        with whole_file(Path(recipe_of_it.output, "config.yaml")):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "run").iterdir()] == [".aside"]
    assert run(recipe_of_it).steps == 1
    assert not list((tmp_path / "run").glob(".*"))
