"""Many rows and their inputs lie on the disk, and are what they would be in memory."""

import csv
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from transformers import AutoTokenizer

import tiny
from subspace_tuning.errors import BadInput
from subspace_tuning.files import stored
from subspace_tuning.files.table import read_table
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import load, mapped, task_of
from subspace_tuning.tasks.glue import GLUE, from_hub


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Ten rows are many, four are read at a time; where the files are."""
    monkeypatch.setattr(stored, "MANY", 10)
    monkeypatch.setattr(stored, "CHUNK", 4)
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
    monkeypatch.setattr(stored, "MANY", 1 << 40)
    want = task.encode(rows, tokenizer, None)
    want = [{k: list(v) if isinstance(v, tuple) else v for k, v in row.items()} for row in want]
    assert isinstance(found, stored.Stored)
    assert (list(found), [found[i] for i in range(11)], found[3:9:2]) == (want, want, want[3:9:2])
    assert not [*on_disk.rglob("*.arrow")], "its name is gone while it is read"


def table(path: Path, content: list[dict]) -> Path:
    """A file of rows in the form that its name says."""
    if path.suffix == ".jsonl":
        return tiny.jsonl(path, content)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(content), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(content[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(content)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("how", [{}, {"train_samples": 12, "eval_samples": 3}, {"hold_out": True}], ids=str)
def test_a_table_is_the_same(kind, form, how, tmp_path, on_disk, monkeypatch):
    content = [{**row, "names": ("b", "a", "a|b")[i % 3]} for i, row in enumerate(tiny.rows(40))]
    content[7] |= {"text": 'a "quoted",\ntext \u2028 of\x0ctwo lines', "other": "\U0001f600 é"}
    path, task = table(tmp_path / f"a.{form}", content), task_of(kind, KINDS[kind])
    found = load(task, str(path), **how)
    assert isinstance(found.train, mapped.Rows)
    assert not [*on_disk.rglob("*.arrow")]
    monkeypatch.setattr(stored, "MANY", 1 << 40)
    want = load(task, str(path), **how)
    for rows, same in zip(found, want, strict=True):
        assert isinstance(same, list)
        assert (list(rows), [rows[i] for i in range(len(rows))], rows[1:9:3]) == (same, same, same[1:9:3])


def test_a_data_set_of_the_hub_is_the_same(on_disk, monkeypatch):
    held = {part: datasets.Dataset.from_list(tiny.rows(size)) for part, size in (("train", 20), ("validation", 9))}
    held = {part: rows.rename_column("text", "sentence") for part, rows in held.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: held)
    rows = from_hub(GLUE["sst2"])
    assert [type(part) for part in rows] == [mapped.Rows, list]
    monkeypatch.setattr(stored, "MANY", 1 << 40)
    assert [list(part) for part in rows] == list(from_hub(GLUE["sst2"]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,b,c", r"line 41: found 3 field\(s\), expected 2"),
        ("", "line 41: found nothing"),
        ('"a,b', "line 41: unexpected end of data"),
        ("a,2", "line 41: the label '2' is outside the range"),
        (",1", "line 41: column 'text' has no value"),
        ("\0,1", "NUL characters"),
        ("\udcff,1", "line 41 has the byte 0xff"),
    ],
)
def test_a_fault_behind_many_rows_is_named(line, said, tmp_path, on_disk):
    lines = ["text,label", *("a film,1" for _ in range(39)), line, "a film,0"]
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=said):
        load(task_of("classification", {"labels": ["0", "1"]}), str(path))


def test_blank_lines_at_the_end_of_a_table_are_no_rows(tmp_path, on_disk):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "a film,1\n" * 39 + "\n\n\n", encoding="utf-8-sig")
    assert len(task_of("classification", {"labels": ["0", "1"]}).read(path)) == 39


LATER = {  # what comes after rows of a text and a number
    "alike": {"text": "more", "number": 1},
    "no number": {"text": "more"},
    "no text": {"text": None, "number": 1},
    "another type": {"text": ["a", "list"], "number": 1},
    "another column": {"text": "more", "number": 1, "new": "text"},
    "nothing": {},
}


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("at", [3, 11, 12, 30])
def test_rows_that_change_are_read_as_in_lists(name, at, tmp_path, on_disk, monkeypatch):
    content = [{"text": f"text {i}", "number": i} for i in range(30)]
    content.insert(at, LATER[name])
    path = tiny.jsonl(tmp_path / "a.jsonl", content)
    found = read_table(path)
    with monkeypatch.context() as patch:
        patch.setattr(stored, "MANY", 1 << 40)
        want = read_table(path)
    assert {column: list(values) for column, values in found.columns.items()} == want.columns
    assert (list(found.columns), list(found.lines)) == (list(want.columns), list(want.lines))
    changes = name == "another type" or (name == "another column" and at >= stored.MANY)
    assert isinstance(found.columns["text"], list if changes else stored.Column)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_training_is_the_same(form, tmp_path, on_disk, monkeypatch):
    results = []
    for name, many in (("disk", 10), ("memory", 1 << 40)):
        monkeypatch.setattr(stored, "MANY", many)
        recipe = tiny.recipe(tmp_path / name, max_steps=4, evaluate_every="end", save_every="never")
        if form == "csv":
            recipe |= {"data": str(table(tmp_path / f"{name}.csv", tiny.rows(96))), "labels": ["0", "1"]}
        results.append(run(make(recipe)).scores)
    assert results[0] == results[1]
    states = [Predictor(Path(tmp_path, name, "run")).model.state_dict() for name in ("disk", "memory")]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
