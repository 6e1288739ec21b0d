"""Laws of checkpoints: what is taken up again is whole and finite; what is not is passed over, and that is said."""

import contextlib
import json
import signal
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml
from test_resume import Cut, weights
from transformers import TrainerCallback

from command import started
from subspace_tuning.errors import Interrupted, RunFailed
from subspace_tuning.run.checkpoints import SEAL, Checkpoints
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import data, model, recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    model(folder / "model", num_hidden_layers=1)
    data(folder / "data")
    return folder


def values_of(home, tmp_path, **changes):
    usual = {"method": {"name": "lora", "r": 2}, "save_every": 2, "output": str(tmp_path / "run")}
    return recipe(home, **usual | changes)


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(make(values_of(home, folder)))
    return weights(folder / "run")


@pytest.fixture(scope="module")
def at_seven(home, tmp_path_factory):
    """A run that was cut after seven steps."""
    folder = tmp_path_factory.mktemp("cut")
    interrupted(home, folder)
    return folder / "run"


@pytest.fixture
def cut(home, at_seven, tmp_path):
    """A copy of it: its recipe, and where its checkpoints are."""
    copytree(at_seven, tmp_path / "run")
    return values_of(home, tmp_path), tmp_path / "run" / "checkpoints"


def interrupted(home, folder, **changes):
    values = values_of(home, folder, **changes)
    with pytest.raises(KeyboardInterrupt):
        run(make(values), callbacks=[Cut("on_step_end", 7)])
    return values, folder / "run" / "checkpoints"


def test_two_are_kept_sealed_and_without_pickles(cut):
    _, place = cut
    assert sorted(p.name for p in place.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    names = {p.name for p in (place / "checkpoint-6").iterdir()}
    assert {"adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json", SEAL} <= names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".md"))}


DAMAGE = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "missing": lambda file: file.unlink(),
}
FILES = ["adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json", SEAL]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_said(cut, tmp_path, whole, name, how):
    values, place = cut
    DAMAGE[how](place / "checkpoint-6" / name)
    said = []
    result = run(make(values), say=said.append)
    assert result.resumed_from_step == 4
    assert weights(tmp_path / "run") == whole
    assert any("checkpoint-4" in line for line in said)
    if (name, how) != (SEAL, "missing"):  # that is how one looks that was cut off by a kill
        assert any("checkpoint-6" in line and name in line for line in said)


def test_no_missing_file_of_a_checkpoint_is_passed_over(cut):
    """Optimiser, schedule, random state, weights: whichever it is, it is named."""
    checkpoints = Checkpoints(cut[1])
    assert checkpoints.damage(6) is None
    files = sorted(checkpoints.at(6).iterdir())
    assert len(files) > 4
    for file in files:
        file.rename(cut[1] / "away")
        assert file.name in str(checkpoints.damage(6))
        (cut[1] / "away").rename(file)


def test_none_that_is_sound_starts_over_and_says_so(cut, tmp_path, whole):
    values, place = cut
    for checkpoint in list(place.iterdir()):
        DAMAGE["empty"](checkpoint / "optimizer.safetensors")
    said = []
    assert run(make(values), say=said.append).resumed_from_step == 0
    assert sum("passes over" in line for line in said) == 2
    assert any("starts over" in line for line in said)
    assert weights(tmp_path / "run") == whole


def test_a_checkpoint_whose_best_is_damaged_is_passed_over(home, tmp_path):
    values, place = interrupted(home, tmp_path, checkpoint="best", evaluate_every=2)
    best = json.loads((place / "checkpoint-6" / SEAL).read_text())["best"]
    DAMAGE["zeroed"](place / f"checkpoint-{best}" / "adapter_model.safetensors")
    said = []
    run(make(values), say=said.append)
    assert any(f"checkpoint-{best}" in line and "adapter_model.safetensors is damaged" in line for line in said)


def test_a_checkpoint_never_runs_code(cut):
    values, place = cut
    (place / "checkpoint-6" / "optimizer.pt").write_bytes(b"cos\nsystem\n(S'touch /tmp/ran'\ntR.")
    said = []
    assert run(make(values), say=said.append).resumed_from_step == 4
    assert any("could run code" in line for line in said)


class Spoil(TrainerCallback):
    """Makes weights no numbers after a step, as a step that broke down does."""

    def __init__(self, step):
        self.step = step

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))


@pytest.mark.parametrize("save_every", [1, 2])
@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_what_was_finite_is_kept_when_training_breaks_down(home, tmp_path, checkpoint, save_every):
    changes = {"checkpoint": checkpoint, "evaluate_every": save_every} if checkpoint == "best" else {}
    values = values_of(home, tmp_path, save_every=save_every, log_every=1, **changes)
    with pytest.raises(RunFailed, match=r"broke down.*checkpoint-\d holds the last finite weights"):
        run(make(values), callbacks=[Spoil(6)])
    kept = Checkpoints(tmp_path / "run" / "checkpoints").steps()
    assert max(kept) == 6 - save_every
    assert not (tmp_path / "run" / "result.json").exists()
    from safetensors.torch import load_file

    for step in kept:
        path = tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "adapter_model.safetensors"
        assert all(t.isfinite().all() for t in load_file(path).values())


def test_the_last_step_that_breaks_leaves_no_result(home, tmp_path):
    with pytest.raises(RunFailed, match=r"no numbers|nan"):
        run(make(values_of(home, tmp_path, save_every="never", log_every=100)), callbacks=[Spoil(12)])
    assert not (tmp_path / "run" / "result.json").exists()


class Send(TrainerCallback):
    def __init__(self, number, step, times=1):
        self.number, self.step, self.times = number, step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.fixture
def set_to():
    """Sets what a signal does; the parent may have it ignored, as nohup does."""
    with contextlib.ExitStack() as undo:
        yield lambda number, how: undo.callback(signal.signal, number, signal.signal(number, how))


def test_a_signal_that_the_parent_ignores_is_ignored(home, tmp_path, whole, set_to):
    set_to(signal.SIGHUP, signal.SIG_IGN)
    run(make(values_of(home, tmp_path)), callbacks=[Send(signal.SIGHUP, 3)])
    assert weights(tmp_path / "run") == whole


@pytest.mark.parametrize("save_every", [4, "epoch", "never"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_first_and_says_how_to_go_on(home, tmp_path, whole, set_to, number, save_every):
    """One run, asked to end at three of its steps: between saves, at the end of an epoch, at its last."""
    set_to(number, signal.SIG_DFL)
    values = values_of(home, tmp_path, save_every=save_every)
    for step in (3, 6, 12):
        with pytest.raises(Interrupted, match=rf"{number.name}.*checkpoint-{step}.*goes on from there") as caught:
            run(make(values), callbacks=[Send(number, step)])
        assert caught.value.code == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    assert run(make(values)).resumed_from_step == 12
    assert weights(tmp_path / "run") == whole


def test_a_second_signal_is_obeyed_at_once(home, tmp_path):
    with pytest.raises(Interrupted):
        run(make(values_of(home, tmp_path)), callbacks=[Send(signal.SIGTERM, 3, times=2)])
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [2]


def test_the_command_ends_with_the_signals_code(home, tmp_path):
    values = values_of(home, tmp_path, epochs=2000, save_every="never", evaluate_every="end")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    process = started("train", tmp_path / "recipe.yaml", err=tmp_path / "said")
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.is_alive() and not (metrics.is_file() and metrics.stat().st_size):
        signal.sigtimedwait([], 0.05)
    process.terminate()
    process.join(120)
    err = (tmp_path / "said").read_text()
    assert process.exitcode == 128 + signal.SIGTERM, err
    assert "error: ended by SIGTERM" in err
    assert "Traceback" not in err
    assert len(Checkpoints(Path(values["output"]) / "checkpoints").steps()) == 1
