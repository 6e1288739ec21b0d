"""Every kind of task, by its recipe shrunk to a tiny model: it learns, answers, merges and sweeps as any other."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import tiny
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import task_of
from subspace_tuning.tasks.metrics import Undefined

ROOT = Path(__file__).parents[2]
TINY = {"epochs": 6, "batch_size": 16, "learning_rate": 0.01, "method": "ssb", "evaluate_every": "end"}
pytestmark = pytest.mark.filterwarnings("ignore::subspace_tuning.tasks.metrics.Undefined")


def recipe(name, folder, rows, **changes):
    """A recipe of recipes/ on a tiny model and rows of its form."""
    told = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    if not (folder / "model").exists():
        tiny.model(folder / "model")
    tiny.jsonl(folder / "data" / "train.jsonl", rows(96, 0))
    tiny.jsonl(folder / "data" / "validation.jsonl", rows(40, 1))
    where = {"model": str(folder / "model"), "data": str(folder / "data"), "output": str(folder / "run")}
    return make({**told, **TINY, "max_length": None, **where, **changes})


def mails(size, seed):
    """Texts that are good, bad, both or neither; the third label never occurs."""
    rng = random.Random(seed)
    words = {"billing": tiny.GOOD, "delivery": tiny.BAD}
    kept = [[name for name in words if rng.random() < 0.5] for _ in range(size)]
    texts = [[*rng.choices(tiny.FILLER, k=3), *(rng.choice(words[name]) for name in held)] for held in kept]
    return [{"text": " ".join(text), "labels": held} for text, held in zip(texts, kept, strict=True)]


def queries(size, seed):
    """A query is a good or a bad word; of four texts, those that have such a word are relevant."""
    rng = random.Random(seed)
    rows = []
    for i in range(size // 4):
        query = f"{rng.choice(tiny.GOOD)} {i % 8} {seed}"
        rows += [{"query": query, "text": tiny.sentence(rng, good), "label": good} for good in (0, 0, 0, 1)]
    return rows


def test_multi_label(tmp_path):
    with pytest.warns(Undefined, match="'praise'; it is left out of the mean"):
        result = run(recipe("multi_label", tmp_path, mails, method="full", epochs=20, learning_rate=3e-3))
    assert set(result.scores) == {"f1_micro", "f1_macro", "mean_average_precision", "subset_accuracy"}
    assert result.metric == "f1_macro"
    assert result.scores["mean_average_precision"] > 0.85, "0.5 is chance"
    code, out, err = subspace("predict", str(tmp_path / "run"), "the film was good", "a story", "--json")
    assert code == 0, err
    assert all({*row["answer"].split("|")} <= {"billing", "delivery", "praise", ""} for row in json.loads(out))
    asked = task_of("multi_label", {"labels": ["a", "b", "c"]})
    assert asked.answer(("x",), torch.tensor([2.0, -2, 1])).answer == "a|c"
    assert asked.answer(("x",), torch.tensor([-1.0, -2, -3])).answer == ""


@pytest.mark.parametrize(
    "rows",
    [
        [{"labels": ["a", "c"]}, {"labels": []}, {"labels": ["b"]}],
        [{"labels": "a|c"}, {"labels": None}, {"labels": " b "}],
        [{"labels": [0, 2]}, {"labels": []}, {"labels": [1]}],
        [{"a": 1, "b": 0, "c": True}, {"a": 0, "b": 0, "c": 0}, {"a": "0", "b": "1", "c": "false"}],
    ],
)
def test_sets_of_labels_are_read_as_they_are_written(tmp_path, rows):
    path = tiny.jsonl(tmp_path / "a.jsonl", [{"text": "x", **row} for row in rows])
    task = task_of("multi_label", {"label": "labels", "labels": ["a", "b", "c"]})
    assert [row.label for row in task.read(path)] == [(1, 0, 1), (0, 0, 0), (0, 1, 0)]


@pytest.mark.parametrize("value", ["a|d", 3, ["a", 1], {"a": 1}])
def test_labels_that_are_none_are_refused(tmp_path, value):
    path = tiny.jsonl(tmp_path / "a.jsonl", [{"text": "x", "labels": ["b"]}, {"text": "x", "labels": value}])
    with pytest.raises(BadInput, match="line 2"):
        task_of("multi_label", {"label": "labels", "labels": ["a", "b"]}).read(path)


def test_multi_label_metrics_are_sklearns():
    from sklearn.metrics import average_precision_score, f1_score

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), (rng.random((50, 4)) < 0.3).astype(float)
    found = task_of("multi_label", {"labels": list("abcd"), "threshold": 0.4}).scores(logits, labels)
    said = logits >= np.log(0.4 / 0.6)
    assert found["f1_micro"] == pytest.approx(f1_score(labels, said, average="micro"))
    assert found["f1_macro"] == pytest.approx(f1_score(labels, said, average="macro"))
    assert found["mean_average_precision"] == pytest.approx(average_precision_score(labels, logits))
    assert found["subset_accuracy"] == pytest.approx((labels == said).all(1).mean())


def test_ranking(tmp_path):
    result = run(recipe("ranking", tmp_path, queries, task="ranking", method="full"))
    assert set(result.scores) == {"ndcg_at_10", "mrr_at_10", "average_precision"}
    assert result.score > 0.9
    good, bad = (Predictor(tmp_path / "run")([("good 1 1", text)])[0].answer for text in ("a good film", "a bad film"))
    assert good > bad


def test_ranking_metrics_are_sklearns():
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(20, 15)), rng.integers(0, 4, size=(20, 15)).astype(float)
    judged = [{"about": f"query {i}"} for i in range(20) for _ in range(15)]
    order = rng.permutation(300)
    task = task_of("ranking", {"most": 3})
    found = task.scores(scores.reshape(-1, 1)[order], labels.reshape(-1, 1)[order], [judged[i] for i in order])
    assert found["ndcg_at_10"] == pytest.approx(ndcg_score(labels, scores, k=10))
    assert found["average_precision"] == pytest.approx(label_ranking_average_precision_score(labels > 0, scores))
    with pytest.warns(Undefined, match="1 of 20 queries have no relevant row"):
        task.scores(scores.reshape(-1, 1), np.where(np.arange(20) > 0, labels.T, 0).T.reshape(-1, 1), judged)


def test_one_score_for_all_rows_is_no_merit():
    judged = [{"about": "query"}] * 4
    assert task_of("ranking").scores(np.zeros((4, 1)), np.array([[1.0], [0], [0], [0]]), judged)["mrr_at_10"] == 0.25


def test_a_relevance_beyond_the_highest_is_refused(tmp_path):
    path = tiny.jsonl(tmp_path / "a.jsonl", [{"query": "x", "text": "y", "label": 2}])
    with pytest.raises(BadInput, match="set most to the highest relevance"):
        task_of("ranking").read(path)
    assert task_of("ranking", {"most": 4}).read(path)[0].label == 2
