"""Every command that writes, where it cannot: one sentence with the right code, and the place as it was."""

import errno
import os

import peft
import pytest
import yaml
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

from command import subspace
from disks import CODES, refusing
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import recipe

FLOOR = os.path.join(os.path.dirname(__file__), "..", "fixtures", "floor", "config.json")
STEP = ("bench", "step", FLOOR, "--layers", 1, "--batch", 1, "--length", 8, "--rounds", 1, "--methods", "ssb")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Finished runs, and an adapter of PEFT's."""
    folder = tmp_path_factory.mktemp("writers")
    for name, method in {"lora": {"name": "lora", "r": 2}, "ssb": "ssb", "full": "full"}.items():
        values = recipe(folder, method=method, max_steps=1, learning_rate=1e-3, output=str(folder / "runs" / name))
        run(make(values))
    base = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    config = peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query"])
    get_peft_model(base, config).save_pretrained(folder / "peft")
    return folder


def run_of(home, out):
    path = home / "run.yaml"
    path.write_text(yaml.safe_dump(recipe(home, method="ssb", max_steps=1, output=str(out))))
    return path


def sweep_of(home, out):
    values = recipe(home)
    base = {key: values[key] for key in ("model", "task", "data", "labels")}
    path = home / "sweep.yaml"
    path.write_text(yaml.safe_dump({"output": str(out), "methods": ["ssb"], "seeds": [0], "base": base}))
    return path


WRITERS = {  # command -> its words, with a place to write to
    "train": lambda home, out: ("train", run_of(home, out)),
    "train --again": lambda home, out: ("train", run_of(home, out), "--again"),
    "merge": lambda home, out: ("merge", home / "runs" / "lora", out),
    "import": lambda home, out: ("import", home / "peft", out),
    "export": lambda home, out: ("export", home / "runs" / "lora", out),
    "export --to merged": lambda home, out: ("export", home / "runs" / "ssb", out, "--to", "merged"),
    "export --streamed": lambda home, out: ("export", home / "runs" / "ssb", out, "--to", "merged", "--streamed"),
    "combine": lambda home, out: ("combine", home / "runs" / "lora", home / "runs" / "ssb", "-o", out),
    "surgery": lambda home, out: ("surgery", home / "runs" / "lora", out),
    "fit --output": lambda home, out: ("fit", home / "model", home / "runs" / "full", "--output", out),
    "fit --save": lambda home, out: (
        *("fit", home / "model", home / "runs" / "full", "--methods", "lora"),
        *("--save", "lora", out, "--output", home / "work"),
    ),
    "analyze": lambda home, out: ("analyze", home / "runs" / "lora", "--layers", "query", "-o", out),
    "curve": lambda home, out: ("curve", home / "runs" / "lora", "--strengths", "0.5", "-o", out),
    "advise": lambda home, out: (
        *("advise", home / "model", "--data", home / "data", "--task", "classification", "labels=[bad,good]"),
        *("--methods", "lora", "--batches", 1, "-o", out),
    ),
    "sweep": lambda home, out: ("sweep", sweep_of(home, out), "--jobs", 1),
    "leaderboard run": lambda home, out: ("leaderboard", "run", "lora", "-o", out),
    "report": lambda home, out: ("report", home / "runs", "-o", out),
    "results": lambda home, out: ("results", home / "runs", "--format", "csv", "--output", out),
    "bench step": lambda home, out: (*STEP, "--output", out),
}
FILES = {"report", "results", "bench step"}  # these write a file, in the place of one that was there
LATE = {"advise", "report", "curve", "bench step"}  # these see the place when the work is done
PLACES = {"below a file": "file/out", "too long": "x" * 300, "file in the way": "file"}


def refused(words, code):
    ended, _, err = subspace(*words)
    assert ended == code, err
    (sentence,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return sentence


@pytest.fixture
def place(tmp_path):
    (tmp_path / "file").write_text("mine")
    return tmp_path


def assert_as_it_was(place):
    assert os.listdir(place) == ["file"]
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_cannot_be_is_told(home, place, name):
    places = dict(list(PLACES.items())[:1]) if name in LATE else PLACES
    for where in places.values():
        if where != "file" or name not in FILES:
            assert str(place)[:30] in refused(WRITERS[name](home, place / where), 2)
            assert_as_it_was(place)


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_refuses_is_told(home, place, monkeypatch, name):
    code = list(CODES.values())[list(WRITERS).index(name) % len(CODES)]
    with monkeypatch.context() as patch:
        refusing(patch, place, code)
        said = refused(WRITERS[name](home, place / "out"), 1 if code == errno.ENOSPC else 2)
    assert ("the disk is full" in said) == (code == errno.ENOSPC)
    assert_as_it_was(place)
