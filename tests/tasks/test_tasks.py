"""Tasks read what they say they read, and judge as the textbooks do."""

import csv
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import pandas
import pytest

from subspace_tuning.errors import BadInput
from subspace_tuning.run.recipe import make
from subspace_tuning.tasks import KNOWN, load, task_of
from subspace_tuning.tasks.classification import Classification
from subspace_tuning.tasks.glue import GLUE
from subspace_tuning.tasks.metrics import accuracy, f1, matthews_correlation, pearson, spearman
from subspace_tuning.tasks.regression import Regression
from tiny import data, jsonl, rows

OWN = Classification(labels=("bad", "good"))


def test_all_eight_of_glue():
    assert set(GLUE) == {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"}
    assert {name: task.metric for name, task in GLUE.items() if task.metric != "accuracy"} == {
        "cola": "matthews_correlation",
        "stsb": "pearson",
    }
    assert GLUE["mnli"].config()["num_labels"] == 3
    assert isinstance(GLUE["stsb"], Regression)
    assert KNOWN["rte"].labels == ("entailment", "not_entailment")


def test_glue_takes_the_papers_values():
    with (files("subspace_tuning") / "data" / "glue_hyperparameters.csv").open() as file:
        table = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert {row["task"] for row in table} == set(GLUE)
    for row in table:
        task, recipe = GLUE[row["task"]], make({"task": row["task"]}).resolved()
        assert task.metric == row["metric"]
        assert task.config()["num_labels"] == int(row["labels"])
        assert recipe.learning_rate == float(row["learning_rate"])
        assert (recipe.batch_size, recipe.epochs) == (int(row["batch_size"]), float(row["epochs"]))


def test_learning_rate_is_the_recipes_else_the_papers_else_the_methods():
    assert make({"task": "rte", "learning_rate": 0.5}).resolved().learning_rate == 0.5
    assert make({"task": "rte"}).resolved().learning_rate == 1.2e-3
    assert make({"method": "ssb"}).resolved().learning_rate == 1e-2
    assert make({"method": "ssb|lora"}).resolved().learning_rate == 1e-3
    assert make({"method": "full", "task": "rte"}).resolved().learning_rate == 5e-5


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl", "json"])
def test_every_format_reads_the_same(tmp_path, suffix):
    content = rows(20)
    content[0]["text"] = 'NA, "quoted"'
    frame = pandas.DataFrame(content)
    path = tmp_path / f"rows.{suffix}"
    write = {
        "parquet": frame.to_parquet,
        "csv": lambda p: frame.to_csv(p, index=False),
        "tsv": lambda p: frame.to_csv(p, index=False, sep="\t"),
        "jsonl": lambda p: frame.to_json(p, orient="records", lines=True),
        "json": lambda p: frame.to_json(p, orient="records"),
    }
    write[suffix](path)
    train, validation = load(OWN, str(path))
    found = sorted([*train, *validation])
    assert found == sorted(((row["text"],), row["label"]) for row in content)
    assert len(validation) == 4


def test_labels_are_numbers_or_names(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "label": label} for label in ["good", "bad"] * 5])
    train, validation = load(OWN, str(path))
    assert sorted(row.label for row in train + validation) == [0] * 5 + [1] * 5


def test_a_folder_for_the_task_or_of_tasks(tmp_path):
    data(tmp_path / "glue" / "rte")
    for row_file in (tmp_path / "glue" / "rte").iterdir():
        frame = pandas.read_json(row_file, lines=True).rename(columns={"text": "sentence1", "other": "sentence2"})
        frame.to_json(row_file, orient="records", lines=True)
    one = load(GLUE["rte"], str(tmp_path / "glue"))
    assert one == load(GLUE["rte"], str(tmp_path / "glue" / "rte"))
    assert (len(one.train), len(one.validation)) == (96, 40)
    assert len(one.train[0].texts) == 2


def test_mnli_is_judged_on_matched_rows(tmp_path):
    pair = {"premise": "a", "hypothesis": "b"}
    jsonl(tmp_path / "train.jsonl", [{**pair, "label": 2}] * 3)
    jsonl(tmp_path / "validation.jsonl", [{**pair, "label": 0}] * 4)
    jsonl(tmp_path / "validation_matched.jsonl", [{**pair, "label": 1}] * 5)
    assert [row.label for row in load(GLUE["mnli"], str(tmp_path)).validation] == [1] * 5


def test_samples_are_the_same_every_time(tmp_path):
    data(tmp_path)
    first = load(OWN, str(tmp_path), train_samples=10, eval_samples=5)
    assert load(OWN, str(tmp_path), train_samples=10, eval_samples=5) == first
    assert (len(first.train), len(first.validation)) == (10, 5)


def test_held_out_rows_are_no_training_rows(tmp_path):
    data(tmp_path)
    everything = load(OWN, str(tmp_path))
    train, held = load(OWN, str(tmp_path), hold_out=True)
    assert sorted(train + held) == sorted(everything.train)


def test_rows_held_out_for_a_search_are_not_those_that_finals_are_judged_by(tmp_path):
    """Also of one file, of which both are split off."""
    path = jsonl(tmp_path / "a.jsonl", [{"text": str(i), "label": i % 2} for i in range(60)])
    train, validation = load(OWN, str(path))
    searched, held = load(OWN, str(path), hold_out=True)
    assert not set(held) & set(validation)
    assert sorted(searched + held) == sorted(train)


@dataclass(frozen=True, kw_only=True)
class ByText(Classification):
    """Rows of one text belong together."""

    def group(self, row):
        return row.texts


@pytest.mark.parametrize("size", [7, 40, 120])
def test_no_group_has_rows_on_both_sides(tmp_path, size):
    sizes = [1 + i % 5 for i in range(size)]
    content = [{"text": f"text {i}", "label": 0} for i, times in enumerate(sizes) for _ in range(times)]
    path = str(jsonl(tmp_path / "a.jsonl", content))
    train, validation = load(ByText(labels=("bad", "good")), path)
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == len(content)
    assert 0.15 * len(content) < len(validation) <= len(content) / 5
    few = load(ByText(labels=("bad", "good")), path, train_samples=10).train
    assert len(few) == 10 or all(few.count(row) == train.count(row) for row in few)


def test_one_group_cannot_be_parted(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "label": 0}] * 20)
    with pytest.raises(BadInput, match="20 rows in 1 groups"):
        load(ByText(labels=("bad", "good")), str(path))


def test_bounds_of_a_kinds_fields_hold():
    with pytest.raises(BadInput, match="max_new_tokens is -1"):
        task_of("sft", {"max_new_tokens": -1})


def test_metrics_are_the_textbooks():
    a, b = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 0, 1, 1])
    assert accuracy(a, b) == pytest.approx(4 / 6)
    assert matthews_correlation(a, b) == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert f1(a, b) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    x, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    assert pearson(x, y) == pytest.approx(np.cov(x, y)[0, 1] / x.std(ddof=1) / y.std(ddof=1))
    assert spearman(x, y) == pytest.approx(0.5)
    assert pearson(np.ones(3), y) == matthews_correlation(np.ones(6, int), b) == 0


def test_f1_knows_the_tasks_classes_whatever_occurs():
    three = Classification(labels=("a", "b", "c"), metric="f1")
    logits = np.eye(3)[[0, 1, 1, 0]]
    assert three.scores(logits, np.array([0, 1, 1, 0]))["f1"] == 1.0
    assert three.scores(logits, np.array([0, 1, 0, 0]))["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert three.scores(logits, np.array([0, 1, 2, 0]))["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert f1(np.zeros(3, int), np.zeros(3, int)) == 0, "class 1 does not occur: undefined"


def test_regression_predicts_the_number_itself():
    task = task_of("regression")
    assert task.scores(np.array([[1.0], [2.0], [3.0]]), np.array([2.0, 4.0, 6.0]))["pearson"] == pytest.approx(1.0)


def test_labels_given_in_python_are_texts():
    with pytest.raises(BadInput, match=r"labels is \[False, True\]"):
        task_of("classification", {"labels": [False, True]})


def test_a_known_task_keeps_its_columns():
    with pytest.raises(BadInput, match="has its own columns"):
        task_of("rte", {"columns": ["a", "b"]})
