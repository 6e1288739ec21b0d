"""Pairs of texts as vectors: trained and judged as sentence-transformers and the textbooks do."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import tiny
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import task_of
from subspace_tuning.tasks.ranks import in_order, mrr_at_10, ndcg_at_10

st = pytest.importorskip("sentence_transformers")
from sentence_transformers.sentence_transformer import losses  # noqa: E402


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    tiny.model(folder / "model")
    for name, seed in (("train", 0), ("validation", 1)):
        rows = tiny.rows(64, seed)
        for row, other in zip(rows[::4], rows[1::4], strict=True):  # one pair in four is of another kind
            row["other"] = other["text"]
        alike = [{**row, "number": float(i % 4 != 0)} for i, row in enumerate(rows)]
        tiny.jsonl(folder / "data" / f"{name}.jsonl", alike)
    return folder


def recipe(home, out, task="similarity", **changes):
    values = tiny.recipe(home, **{"task": task, "columns": ["text", "other"], "output": str(out), **changes})
    del values["labels"]
    return make({**values, **({"label": "number"} if task == "similarity" else {})})


def encoder(folder):
    return st.SentenceTransformer(str(folder), device="cpu")


def cosines(model, rows):
    a, b = (torch.tensor(model.encode([row[side] for row in rows])) for side in ("text", "other"))
    return torch.nn.functional.cosine_similarity(a, b)


@pytest.fixture(scope="module")
def held_out(home):
    return [json.loads(line) for line in (home / "data/validation.jsonl").read_text().splitlines()]


def test_before_training_the_score_is_that_of_sentence_transformers(home, held_out, tmp_path):
    result = run(recipe(home, tmp_path / "base", method="none"))
    found = cosines(encoder(home / "model"), held_out)
    assert result.score == pytest.approx(spearmanr(found, [row["number"] for row in held_out]).statistic, abs=1e-6)
    assert (result.metric, result.trainable, result.steps) == ("spearman", 0, 0)


def test_training_helps_and_the_merged_model_is_one_of_sentence_transformers(home, held_out, tmp_path):
    before = run(recipe(home, tmp_path / "base", method="none")).score
    after = run(recipe(home, tmp_path / "run", method="lora", learning_rate=0.03, epochs=10))
    assert after.score > before + 0.1
    found = cosines(encoder(merge(tmp_path / "run", tmp_path / "merged")), held_out)
    assert after.score == pytest.approx(spearmanr(found, [row["number"] for row in held_out]).statistic, abs=1e-3)
    told = Predictor(tmp_path / "run")([(row["text"], row["other"]) for row in held_out])
    torch.testing.assert_close(torch.tensor([t.answer for t in told]), found, rtol=1e-4, atol=1e-5)


def test_sentence_transformers_opens_the_adapter(home, held_out, tmp_path):
    run(recipe(home, tmp_path / "run", epochs=1))
    model = encoder(home / "model")
    model.load_adapter(str(tmp_path / "run" / "adapter"))
    told = Predictor(tmp_path / "run")([(row["text"], row["other"]) for row in held_out])
    torch.testing.assert_close(torch.tensor([t.answer for t in told]), cosines(model, held_out), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "loss"), [("similarity", "CoSENTLoss"), ("retrieval", "MultipleNegativesRankingLoss")]
)
def test_the_loss_is_that_of_sentence_transformers(home, task, loss, tmp_path, monkeypatch):
    from subspace_tuning.tasks.pairs_trainer import PairsTrainer

    seen = []
    own = PairsTrainer.compute_loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        made = own(self, model, inputs, return_outputs)
        if model.training:
            seen.append((inputs, made.detach()))
        return made

    monkeypatch.setattr(PairsTrainer, "compute_loss", compute_loss)
    run(recipe(home, tmp_path / "run", task, method="ssb", max_steps=1, evaluate_every="end"))
    ((inputs, made),) = seen
    model = encoder(home / "model").train(False)
    sides = [dict(inputs[side]) for side in ("first", "second")]
    want = getattr(losses, loss)(model)(sides, inputs["labels"])
    assert made.item() == pytest.approx(want.item(), rel=0.2)  # the trained one drops out


def test_what_else_belongs_to_a_query_is_nothing_to_tell_it_from():
    from subspace_tuning.tasks.pairs_trainer import AmongOthers

    pairs = [("a", "x"), ("a", "y"), ("b", "y"), ("c", "z"), ("c", "z"), ("d", "w")]
    rows = task_of("retrieval").questions([f"{q}\t{t}" for q, t in pairs], [""] * len(pairs))
    labels = torch.tensor(task_of("retrieval").numbered(rows))
    vectors = [torch.randn(len(pairs), 5, dtype=torch.float64, generator=torch.manual_seed(i)) for i in range(2)]
    a, b = (side / side.norm(dim=1, keepdim=True) for side in vectors)
    want = []
    for i, (query, _) in enumerate(pairs):
        against = [j for j, (_, text) in enumerate(pairs) if j == i or (query, text) not in pairs]
        scores = 20 * b[against] @ a[i]
        want.append(scores.logsumexp(0) - 20 * b[i] @ a[i])
    made = AmongOthers(None).compute_loss_from_embeddings(vectors, labels)
    torch.testing.assert_close(made, torch.stack(want).mean())
    alone = AmongOthers(None).compute_loss_from_embeddings([side[:2] for side in vectors], labels[:2])
    assert alone.item() == pytest.approx(0, abs=1e-12)


def test_retrieval_learns_which_word_belongs_to_which(home, tmp_path):
    pairs = zip(tiny.FILLER, tiny.GOOD + tiny.BAD, strict=False)
    rows = [{"query": word, "text": other} for word, other in pairs]
    for part in ("train", "validation"):
        tiny.jsonl(tmp_path / "words" / f"{part}.jsonl", rows)
    how = {"columns": ["query", "text"], "data": str(tmp_path / "words"), "batch_size": 6}
    before = run(recipe(home, tmp_path / "base", "retrieval", method="none", **how))
    assert set(before.scores) == {"ndcg_at_10", "mrr_at_10", "accuracy_at_1"}
    after = run(recipe(home, tmp_path / "run", "retrieval", method="lora", learning_rate=0.02, epochs=30, **how))
    assert after.score > before.score + 0.2


def test_retrieval_is_judged_as_the_textbooks_do():
    cosines = np.array([[0.9, 0.8, 0.1, 0.0], [0.1, 0.9, 0.5, 0.2]])
    belongs = np.array([[0, 1, 1, 0], [0, 0, 0, 1]], bool)
    best = 1 / np.log2(2) + 1 / np.log2(3)
    first = (1 / np.log2(3) + 1 / np.log2(4)) / best
    queries = [in_order(*query) for query in zip(cosines, belongs, strict=True)]
    assert ndcg_at_10(queries) == pytest.approx((first + 1 / np.log2(4)) / 2)
    assert mrr_at_10(queries) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert mrr_at_10([in_order(np.arange(12.0), np.eye(12)[0])]) == 0


def test_a_text_in_several_rows_is_one_text():
    task = task_of("retrieval")
    numbers = task.numbered([row for row in task.questions(["a\tx", "b\ty", "a\ty"], ["1", "2", "3"]) if row])
    assert numbers == [(0, 0), (1, 1), (0, 1)]
    vectors = np.eye(2)[[0, 1, 0]], np.eye(2)[[0, 1, 1]]
    first = (1 + 1 / np.log2(3)) / (1 + 1 / np.log2(3))  # query a: both of its texts, whatever their order
    assert task.scores(vectors, np.array(numbers))["ndcg_at_10"] == pytest.approx((first + 1) / 2)


def test_what_cannot_be_is_said(home, tmp_path):
    with pytest.raises(BadInput, match="puts none on the model"):
        run(recipe(home, tmp_path / "run", method="head"))
    with pytest.raises(BadInput, match="two columns"):
        task_of("similarity", {"columns": ["text"]})
    with pytest.raises(BadInput, match="column of texts"):
        task_of("similarity", {"columns": ["text", "label"]})
    assert "retrieval" in subspace("tasks")[1]


@pytest.mark.parametrize("method", ["fishmask", {"name": "lora", "init": "eva"}])
def test_methods_that_look_at_data_look_at_pairs(home, method, tmp_path):
    assert run(recipe(home, tmp_path / "run", method=method, max_steps=2, evaluate_every="end")).steps == 2
