"""Fits and analyses by several processes find what one finds, go on where they stopped, and say when one is lost."""

import json
import os
import signal

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from models import llama
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.errors import RunFailed
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.theory import analyze as analysis
from subspace_tuning.theory.analyze import Look, analyze
from subspace_tuning.theory.fit import Fit
from subspace_tuning.theory.layer_fit import apart
from subspace_tuning.theory.layers_shared_out import each

METHODS = [LoRA(r=2), SSB()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base, what full fine-tuning made of it, and an adapter."""
    folder = tmp_path_factory.mktemp("shared_out")
    torch.manual_seed(0)
    model = llama()
    model.save_pretrained(folder / "base")
    get_peft_model(llama(), SubspaceConfig(method=LoRA(r=2), init_weights=False)).save_pretrained(folder / "adapter")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder / "tuned")
    return folder


def fit(home, out):
    return Fit(Checkpoint(home / "base"), Checkpoint(home / "tuned"), out)


def test_fits_by_several_processes_are_those_of_one_and_go_on(home, tmp_path):
    one = fit(home, tmp_path / "one").run(METHODS, keep=METHODS[0])
    ticks = []
    two = fit(home, tmp_path / "two").run(METHODS, keep=METHODS[0], tick=ticks.append, workers=2)
    assert two.families == one.families
    assert len(ticks) == len(one.places.places)
    mine, theirs = ({p.name: load_file(p) for p in (tmp_path / n / "parameters").iterdir()} for n in ("two", "one"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[name][key]) for name, held in mine.items() for key, t in held.items())
    assert {m.describe() for m in METHODS} == set(two.seconds)
    lines = tmp_path / "two/layers.jsonl"
    kept = lines.read_text().splitlines()
    lines.write_text("\n".join(kept[: len(kept) // 2]) + "\n")
    again = fit(home, tmp_path / "two").run(METHODS, keep=METHODS[0], workers=2)
    assert again.families == one.families
    assert set(kept[: len(kept) // 2]) < set(lines.read_text().splitlines())


def test_an_analysis_by_several_processes_is_that_of_one(home):
    look = Look(r=2, scales=())
    one, two = (analyze(home / "adapter", str(home / "base"), look=look, workers=n) for n in (1, 2))
    assert json.dumps(one) == json.dumps(two)


@pytest.mark.parametrize("given", ["adapter", "tuned"])
def test_an_interrupted_analysis_goes_on(home, tmp_path, monkeypatch, given):
    how = (home / given, str(home / "base"))
    whole = analyze(*how, look=Look(r=2, scales=()))
    looked, find = [], analysis._found

    def cut(layer, *args):
        looked.append(layer)
        if len(looked) == 3:
            raise KeyboardInterrupt
        return find(layer, *args)

    monkeypatch.setattr(analysis, "_found", cut)
    with pytest.raises(KeyboardInterrupt):
        analyze(*how, look=Look(r=2, scales=()), out=tmp_path / "out")
    kept = sorted((tmp_path / ".out.unfinished").glob("*.safetensors"))
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # found anew
    again = analyze(*how, look=Look(r=2, scales=()), out=tmp_path / "out")
    assert len(looked) == 3 + len(whole["layers"]) - 1
    assert json.dumps(again) == json.dumps(whole)
    analyze(*how, look=Look(r=3, scales=()), out=tmp_path / "out")  # looked at otherwise: nothing of it is used
    assert len(looked) == 2 + 2 * len(whole["layers"])
    analysis.save(whole, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_model_that_is_too_large_is_not_loaded_unasked(home, monkeypatch):
    whole = analyze(home / "tuned", str(home / "base"), look=Look(r=2, intruders=4, epsilon=1.0))
    assert [told["scale"] for told in whole["scaling_intruders"]] == [*analysis.SCALES, 1.0]
    monkeypatch.setattr("subspace_tuning.bench.memory.available", lambda: 1000)
    data = analyze(home / "tuned", str(home / "base"), look=Look(r=2, intruders=4, epsilon=1.0))
    assert "scaling_intruders" not in data
    assert "--scales asks for it" in data["scaling_intruders_left_out"]
    asked = analyze(home / "tuned", str(home / "base"), look=Look(r=2, intruders=4, epsilon=1.0, scales=(0.5,)))
    assert [told["scale"] for told in asked["scaling_intruders"]] == [0.5, 1.0]


class Lost:
    """Work that kills the process that does it."""

    def __enter__(self):
        return lambda task: os.kill(os.getpid(), signal.SIGKILL)

    def __exit__(self, *error):
        return None


def test_a_process_that_is_lost_is_said():
    with pytest.raises(RunFailed, match="ended without a word"):
        list(each([1, 2], lambda task: task, Lost, workers=2))


def test_what_a_process_opens_is_what_the_fit_does(home, tmp_path):
    report = fit(home, tmp_path / "fit").run([METHODS[0]])
    place = next(n for n, p in enumerate(report.places.places) if p.name in report.families[0].fitted)
    with apart(str(home / "base"), str(home / "tuned"), None, tmp_path, None, None) as made:
        (line,) = made((place, [METHODS[0]]))
    assert line.fit == report.families[0].layers[report.places.places[place].name]
