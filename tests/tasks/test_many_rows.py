"""Inputs of many rows lie on the disk, and are what they would be in memory."""

import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import tiny
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import mapped, task_of


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Ten rows are many, four are read at a time; where the files are."""
    monkeypatch.setattr(mapped, "MANY", 10)
    monkeypatch.setattr(mapped, "CHUNK", 4)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


KINDS = {
    "classification": {"labels": ["0", "1"]},
    "regression": {"columns": ["text", "other"], "label": "number"},
    "multi_label": {"label": "names", "labels": ["a", "b"]},
    "ranking": {"columns": ["text", "other"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_the_same(kind, tmp_path, on_disk, monkeypatch):
    content = [{**row, "names": ["a", "b"][: i % 3]} for i, row in enumerate(tiny.rows(11))]
    task, tokenizer = task_of(kind, KINDS[kind]), AutoTokenizer.from_pretrained(tiny.model(tmp_path / "model"))
    rows = task.read(tiny.jsonl(tmp_path / "a.jsonl", content))
    found = task.encode(rows, tokenizer, None)
    monkeypatch.setattr(mapped, "MANY", 1 << 40)
    want = task.encode(rows, tokenizer, None)
    want = [{k: list(v) if isinstance(v, tuple) else v for k, v in row.items()} for row in want]
    assert isinstance(found, mapped.Mapped)
    assert (list(found), [found[i] for i in range(11)], found[3:9:2]) == (want, want, want[3:9:2])
    assert not [*on_disk.rglob("*.arrow")], "its name is gone while it is read"


def test_training_is_the_same(tmp_path, on_disk, monkeypatch):
    results = []
    for name, many in (("disk", 10), ("memory", 1 << 40)):
        monkeypatch.setattr(mapped, "MANY", many)
        results.append(
            run(make(tiny.recipe(tmp_path / name, max_steps=4, evaluate_every="end", save_every="never"))).scores
        )
    assert results[0] == results[1]
    states = [Predictor(Path(tmp_path, name, "run")).model.state_dict() for name in ("disk", "memory")]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
