"""Rare classes weigh as much as a recipe says: in the loss, and in what is learnt."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

import tiny
from subspace_tuning.errors import BadInput
from subspace_tuning.run.packed import train_packed
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make, override
from subspace_tuning.run.train import run
from subspace_tuning.tasks import task_of
from subspace_tuning.tasks.weighted import balanced, weighted_cross_entropy


def test_balanced_is_scikit_learns():
    numbers = [0] * 7 + [1] * 2 + [3]
    want = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=numbers)
    found = balanced(numbers, 5)
    np.testing.assert_allclose(found[[0, 1, 3]], want)
    assert found[[2, 4]].tolist() == [1, 1], "nobody has these"
    assert np.mean(found[numbers]) == pytest.approx(1)


def test_the_weighted_loss_of_two_halves_is_that_of_the_whole():
    logits, labels, weights = torch.randn(6, 5, 3), torch.randint(3, (6, 5)), torch.tensor([1.0, 2, 5])
    labels[:, ::2] = -100
    whole = weighted_cross_entropy(logits, labels, weights)
    halves = [weighted_cross_entropy(*(x[part] for x in (logits, labels)), weights) for part in ([0, 1, 2], [3, 4, 5])]
    torch.testing.assert_close(whole, sum(halves) / 2)
    kept = labels != -100
    each = -logits.log_softmax(-1)[kept][range(int(kept.sum())), labels[kept]] * weights[labels[kept]]
    torch.testing.assert_close(whole, each.mean())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Texts that say nothing, of which one in eight is good."""
    folder = tmp_path_factory.mktemp("weighted")
    tiny.model(folder / "model")
    said = ["bad" if i % 8 else "good" for i in range(64)]
    rows = [{"text": "the film", "label": name, "tokens": ["the", "film"], "tags": [name] * 2} for name in said]
    for part in ("train", "validation"):
        tiny.jsonl(folder / "data" / f"{part}.jsonl", rows)
    return folder


def recipe(home, out, **changes):
    how = {"method": "head", "learning_rate": 0.1, "epochs": 60, "batch_size": 64, "evaluate_every": "end"}
    return make(tiny.recipe(home, **{**how, "output": str(out), "save_every": "never", **changes}))


LOSS = [("classification", None, 1 / 8), ("classification", "balanced", 1 / 2), ("classification", (1, 3), 3 / 10)]
LOSS += [
    ("multi_label", "balanced", 1 / 2),
    ("multi_label", (1, 3), 3 / 10),
    ("token_classification", "balanced", 1 / 2),
]


@pytest.mark.filterwarnings("ignore::subspace_tuning.tasks.metrics.Undefined")
@pytest.mark.parametrize(("task", "weights", "share"), LOSS)
def test_where_texts_say_nothing_a_class_is_as_likely_as_it_is_heavy(home, tmp_path, task, weights, share):
    """The minimum of the weighted loss: w_k n_k over their sum."""
    told = {} if weights is None else {"class_weights": weights if weights == "balanced" else list(weights)}
    run(recipe(home, tmp_path / "run", task=task, **told))
    predictor = Predictor(tmp_path / "run")
    inputs = predictor.tokenizer("the film", return_tensors="pt")
    with torch.inference_mode():
        logits = predictor.model(**inputs).logits[0]
    if task == "token_classification":
        logits = logits[1]  # of "the"
    found = (logits.sigmoid() if task == "multi_label" else logits.softmax(-1))[1].item()
    assert found == pytest.approx(share, abs=0.04)


@pytest.mark.filterwarnings("ignore::subspace_tuning.tasks.metrics.Undefined")
def test_packed_runs_are_weighted_too(home, tmp_path):
    how = {"method": "ssb", "epochs": 20, "learning_rate": 0.05, "class_weights": "balanced", "group_by_length": False}
    train_packed([recipe(home, tmp_path / name, seed=seed, **how) for seed, name in enumerate("ab")])
    (told,) = Predictor(tmp_path / "b")(["the film"])
    assert told.score == pytest.approx(1 / 2, abs=0.06)


def test_tags_are_weighted_where_there_is_a_word():
    task = task_of("token_classification", {"labels": ["O", "B-X"], "class_weights": "balanced"})
    train = [{"labels": [-100, 0, 0, 0, 1, -100]}, {"labels": [-100, 0, 0, 0, 0, 0]}]
    np.testing.assert_allclose(task.balance(train), [9 / 16, 9 / 2])
    logits, labels = torch.randn(2, 6, 2), torch.tensor([row["labels"] for row in train])
    weights = torch.tensor([1.0, 1.0])
    plain = F.cross_entropy(logits.transpose(1, 2), labels)
    torch.testing.assert_close(task.weighted_loss(logits, labels, weights), plain)


def test_what_cannot_be_is_said(home, tmp_path):
    with pytest.raises(BadInput, match="1 numbers for 2 labels"):
        task_of("classification", {"labels": ["a", "b"], "class_weights": [1]})
    with pytest.raises(BadInput, match="class_weights is "):
        task_of("classification", {"labels": ["a", "b"], "class_weights": [1, 0]})
    with pytest.raises(BadInput, match="two losses"):
        run(recipe(home, tmp_path / "run", class_weights="balanced", trainer={"label_smoothing_factor": 0.1}))
    told = make(override(tiny.recipe(home), ["class_weights=[1,2.5]"])).task_object()
    assert told.class_weights == (1, 2.5)
    assert math.prod(told.to_data()["class_weights"]) == 2.5
