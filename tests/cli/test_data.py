"""`subspace data` shows what training would read, and refuses what it would refuse."""

import json

import numpy as np
import pytest
from PIL import Image

import tiny
import tiny_lm
import tiny_pictures
import tiny_seq2seq
from command import subspace


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model(tmp_path_factory.mktemp("data") / "model")


TASK = ("--task", "classification", "labels=[bad,good]", "--json")


def looked(path, model, *words):
    code, out, err = subspace("data", path, "--model", model, *words)
    assert code == 0, err
    return json.loads(out)


def test_columns_of_a_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "id,text,label\n1,a good film,good\n2,,bad\n3,   ,bad\n" + "".join(f"{i},x,bad\n" for i in range(20))
    )
    code, out, _ = subspace("data", path, "--json")
    (found,) = json.loads(out)["files"].values()
    columns = {column.pop("name"): column for column in found["columns"]}
    assert code == 0
    assert found["rows"] == 23
    assert (columns["text"]["missing"], columns["text"]["blank"]) == (1, 1)
    assert columns["label"]["values"] == {"bad": 22, "good": 1}
    assert columns["id"]["values"] is None, "too many to list"
    assert "text, 1 missing, 1 blank" in subspace("data", path)[1]


def test_lengths_are_those_of_the_tokenizer_and_what_is_longer_is_counted(tmp_path, model):
    """Words of the tiny tokenizer are tokens, [CLS] and [SEP] two more."""
    rows = [{"text": " ".join(["good"] * (i + 1)), "label": i % 2} for i in range(10)]
    folder = tmp_path / "data"
    tiny.jsonl(folder / "train.jsonl", rows)
    tiny.jsonl(folder / "validation.jsonl", rows[:1])
    found = looked(folder, model, *TASK, "max_length=7")
    assert found["train"]["tokens"] == {
        **{"least": 3, "median": 8, "most_of_95": 12, "most": 12},
        **{"limit": 7, "longer": 5},
    }
    assert found["train"]["labels"] == {"bad": 5, "good": 5}
    assert found["in_training"] == 1


def test_rows_that_stand_there_twice(tmp_path, model):
    rows = [{"text": "a film", "label": label} for label in ("good", "good", "bad")] + [{"text": "x", "label": "bad"}]
    tiny.jsonl(tmp_path / "train.jsonl", rows)
    tiny.jsonl(tmp_path / "validation.jsonl", [{"text": "a [SEP] b", "label": "bad"}, rows[0], rows[2]])
    found = looked(tmp_path, model, *TASK)
    assert (found["train"]["twice"], found["train"]["with_other_label"]) == (2, 1)
    assert (found["validation"]["twice"], found["in_training"], found["validation"]["special"]) == (1, 2, 1)
    told = subspace("data", tmp_path, "--model", model, *TASK[:-1])[1]
    assert "2 have the texts of an earlier row, 1 with another label" in told
    assert "2 of the rows to judge by have the texts of a row that is trained on" in told


ROWS = {
    "regression": ({"text": "a film", "label": 0.5}, {"least": 0.5, "median": 0.5, "greatest": 0.5}),
    "multi_label": ({"text": "a film", "label": ["a", "b"]}, {"a": 10, "b": 10}),
    "ranking": ({"query": "a", "text": "film", "label": 1}, {"least": 1.0, "median": 1.0, "greatest": 1.0}),
    "similarity": ({"sentence1": "a", "sentence2": "film", "label": 2}, {"least": 2.0, "median": 2.0, "greatest": 2.0}),
    "retrieval": ({"query": "a", "text": "film"}, {}),
    "token_classification": ({"tokens": ["a", "film"], "tags": ["a", "b"]}, {"a": 10, "b": 10}),
    "question_answering": ({"question": "a", "context": "film", "answers": []}, {"no answer": 10}),
    "seq2seq": ({"source": "a", "target": "film"}, {}),
    "sft": ({"question": "a", "answer": "film"}, {}),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_of_texts(tmp_path, model, kind):
    row, labels = ROWS[kind]
    another = [{"query": "b", "text": "story"}] * (kind == "retrieval")  # there must be something to choose from
    for part, more in (("train", []), ("validation", another)):
        tiny.jsonl(tmp_path / f"{part}.jsonl", [row] * 10 + more)
    needs = ["labels=[a,b]"] if kind in ("multi_label", "token_classification") else []
    if kind in ("sft", "seq2seq"):
        model = (tiny_lm.saved if kind == "sft" else tiny_seq2seq.t5)(tmp_path / "lm")
    found = looked(tmp_path, model, "--task", kind, *needs, "--json")
    assert found["train"]["labels"] == labels
    assert found["train"]["tokens"]["longer"] == 0
    assert (found["train"]["rows"], found["train"]["twice"]) == (10, 9)


def test_pieces_of_long_rows_are_counted(tmp_path, model):
    rows = [{"tokens": ["good"] * n, "tags": ["a"] * n} for n in (5, 30)] * 5
    for part in ("train", "validation"):
        tiny.jsonl(tmp_path / f"{part}.jsonl", rows)
    found = looked(tmp_path, model, "--task", "token_classification", "labels=[a,b]", "max_length=12", "--json")[
        "train"
    ]
    assert (found["rows"], found["inputs"], found["tokens"]["longer"]) == (10, 20, 5)


def test_pictures_have_labels_and_no_tokens(tmp_path):
    images, labels = tiny_pictures.pictures(10)
    np.savez(tmp_path / "train.npz", image=images, label=labels)
    tiny_pictures.model(tmp_path / "model")
    found = looked(tmp_path, tmp_path / "model", "--task", "image_classification", "labels=[across,down]", "--json")
    assert found["train"]["tokens"] is None
    assert sum(found["train"]["labels"].values()) == found["train"]["rows"] == 8


SQUAD = {"context": "a film", "qas": [{"question": "what", "answers": [{"text": "film", "answer_start": 2}]}]}
FORMS = {
    "a.conll": ("Anna B-PER\nsleeps O\n\nIt O\n", {"tokens": ["list"], "tags": ["list"]}),
    "a.json": (json.dumps({"data": [{"paragraphs": [SQUAD] * 2}]}), {"question": ["text"], "answers": ["list"]}),
    "a.npz": (None, {"image": ["array of 4 x 4"], "label": ["number"]}),
}


@pytest.mark.parametrize("name", FORMS)
def test_columns_of_files_of_other_forms(tmp_path, name):
    content, columns = FORMS[name]
    if content is None:
        np.savez(tmp_path / name, image=np.zeros((2, 4, 4), np.uint8), label=np.arange(2))
    else:
        (tmp_path / name).write_text(content)
    code, out, err = subspace("data", tmp_path / name, "--json")
    assert code == 0, err
    (found,) = json.loads(out)["files"].values()
    assert found["rows"] == 2
    assert {c["name"]: c["holds"] for c in found["columns"]}.items() >= columns.items()
    assert subspace("data", tmp_path / name)[1].count("\n") < 8, "a line a column"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.png",), "cannot read a.png: expected a file that ends in"),
        (("rows.CSV",), "cannot read rows.CSV: expected a file that ends in"),
        (("pets",), "such as --task image_classification"),
        (("pets", "--task", "image_classification", "labels=[a,b]"), "no model is named, and the usual one"),
    ],
)
def test_what_is_no_file_of_rows_is_said(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "rows.CSV", *(f"pets/{c}/{i}.png" for c in "ab" for i in range(3))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name, "PNG")
    code, _, err = subspace("data", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.csv",), "there is no data file or folder"),
        (("rows.csv", "--task", "classification", "labels=[a,b]"), "line 3: the label 'c' is outside the range"),
        (("rows.csv", "--task", "clasification"), "did you mean 'classification'"),
        (("latin.csv",), "is not utf-8: line 2 has the byte 0xe9"),
        (("twice.csv",), "two columns 'text'"),
        ((".",), "has no rows: expected a file train"),
        (
            ("gaps.csv", "--task", "classification", "labels=[a,c]"),
            "line 3: column 'label' has no value, and so in 1 more",
        ),
    ],
)
def test_what_training_would_refuse_is_refused(tmp_path, model, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text,label\nx,a\ny,c\nz,a\n")
    (tmp_path / "gaps.csv").write_text("text,label\nx,a\ny,\nz,\n")
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    (tmp_path / "twice.csv").write_text("text,text\nx,a\n")
    code, _, err = subspace("data", *words, "--model", model)
    assert code == 2
    assert said in err


def test_an_encoding_and_a_recipe_are_taken_as_training_takes_them(tmp_path, model):
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,bad\n".encode("latin-1") * 1 + b"film,good\n" * 9)
    (tmp_path / "r.yaml").write_text(
        f"task: classification\nlabels: [bad, good]\nmodel: {model}\nencoding: latin-1\ndata: {tmp_path}/latin.csv\n"
    )
    code, out, err = subspace("data", tmp_path / "r.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["train"]["rows"] == 8
