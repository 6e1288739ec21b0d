"""Every kind of task, by its recipe shrunk to a tiny model: it learns, answers, merges and sweeps as any other."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import tiny
import tiny_seq2seq
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tasks import task_of
from subspace_tuning.tasks.metrics import Undefined

ROOT = Path(__file__).parents[2]
TINY = {"epochs": 6, "batch_size": 16, "learning_rate": 0.01, "method": "ssb"}
TINY |= {"evaluate_every": "end", "save_every": "never"}
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
    """A word gives each label away, so that all sets come out right; the most frequent set has a third of the rows."""
    tiny.model(tmp_path / "model", initializer_range=0.2)
    with pytest.warns(Undefined, match="'praise'; it is left out of the mean"):
        result = run(recipe("multi_label", tmp_path, mails, method="full", epochs=10))
    assert set(result.scores) == {"f1_micro", "f1_macro", "mean_average_precision", "subset_accuracy"}
    assert result.metric == "f1_macro"
    assert result.scores["subset_accuracy"] > 0.9
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


# --- words with a tag --------------------

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def sentences(size, seed):
    """Good words are persons, bad ones places; two in a row are one name."""
    rng = random.Random(seed)
    rows = []
    for _ in range(size):
        words, tags = [], []
        for kind in rng.choices(["", "PER", "LOC"], k=3):
            held = rng.choices({"": tiny.FILLER, "PER": tiny.GOOD, "LOC": tiny.BAD}[kind], k=2)
            words += [*held, "the"]
            tags += [f"B-{kind}", f"I-{kind}", "O"] if kind else ["O"] * 3
        rows.append({"tokens": words, "tags": tags})
    return rows


def test_token_classification(tmp_path):
    result = run(recipe("token_classification", tmp_path, sentences, epochs=12, method="full"))
    assert (result.metric, set(result.scores)) == ("f1", {"f1", "precision", "recall", "word_accuracy"})
    assert result.score > 0.9
    sentence = "good fine the film was the bad dull"
    (told,) = Predictor(tmp_path / "run")([sentence])
    assert told.answer == "B-PER I-PER O O O O B-LOC I-LOC"
    (longer,) = Predictor(tmp_path / "run")([" ".join([sentence] * 20)])
    assert len(longer.answer.split()) == 160, "in pieces, no word left out"
    code, _, err = subspace("merge", str(tmp_path / "run"), str(tmp_path / "merged"))
    assert code == 0, err
    assert (tmp_path / "merged" / "config.json").exists()


def test_tags_are_scored_by_row_however_it_was_cut(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model(tmp_path / "model"))
    task = task_of("token_classification", {"labels": LABELS})
    rows = task.rows(tiny_table([{"tokens": ["good"] * 9 + ["bad"], "tags": ["B-PER"] + ["I-PER"] * 8 + ["O"]}] * 2))
    judged = task.encode(rows, tokenizer, 6)
    assert len(judged) == 6
    logits = np.full((6, 6, 5), 0.0)
    for at, piece in enumerate(judged):
        for place, label in enumerate(piece["labels"]):
            logits[at, place, max(label, 0)] = 1
    found = task.scores(logits[::-1], None, judged[::-1])
    assert found == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "word_accuracy": 1.0}
    logits[1, 1] = [1, 0, 0, 0, 0]  # one word within the first row's name
    assert task.scores(logits, None, judged) == pytest.approx(
        {"f1": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "word_accuracy": 19 / 20}
    )


def tiny_table(rows):
    from subspace_tuning.files.table import table_of

    return table_of("rows", {key: [row[key] for row in rows] for key in rows[0]})


def test_a_word_a_line_reads_as_lists_do(tmp_path):
    task = task_of("token_classification", {"labels": LABELS})
    text = "-DOCSTART- -X- O\n\nAnna NNP B-PER\nBerg NNP I-PER\nslept VB O\n\n\nin IN O\nRome NNP B-LOC\n"
    (tmp_path / "a.conll").write_text(text)
    assert task.read(tmp_path / "a.conll") == [(("Anna", "Berg", "slept"), (1, 2, 0)), (("in", "Rome"), (0, 3))]
    (tmp_path / "b.conll").write_text(text + "alone\n")
    with pytest.raises(BadInput, match=r"b\.conll, line 10: found 1 column"):
        task.read(tmp_path / "b.conll")
    (tmp_path / "c.conll").write_text(text + "x NN B-ORG\n")
    with pytest.raises(BadInput, match="line 8: the label 'B-ORG'"):
        task.read(tmp_path / "c.conll")
    with pytest.raises(BadInput, match="word_accuracy"):
        task_of("token_classification", {"labels": ["NOUN", "VERB"], "metric": "f1"})
    assert task_of("token_classification", {"labels": ["NOUN", "VERB"]}).metric == "word_accuracy"


# --- questions and where their answers stand --------------------


def questions(size, seed):
    """The good word is asked for; every fourth text has none."""
    rng = random.Random(seed)
    rows = []
    for i in range(size):
        words = rng.choices(tiny.FILLER, k=8)
        if i % 4:
            words[rng.randrange(8)] = rng.choice(tiny.GOOD)
        context = " ".join(words)
        answers = [{"text": w, "answer_start": context.index(w)} for w in words if w in tiny.GOOD]
        rows.append({"question": "was the film of", "context": context, "answers": answers})
    return rows


def test_question_answering(tmp_path):
    result = run(recipe("question_answering", tmp_path, questions, epochs=12, method="full", learning_rate=3e-3))
    assert (result.metric, set(result.scores)) == ("f1", {"f1", "exact_match"})
    assert result.score > 0.8
    told = Predictor(tmp_path / "run")(
        [("was the film of", "a great story"), ("was the film of", "of two people " * 20)]
    )
    assert all(answer.answer in answer.text[1] for answer in told)


def test_answers_are_compared_as_squad_does():
    from subspace_tuning.tasks.question_answering import exact_match, f1

    assert exact_match("The cat!", ["a dog", "cat"]) == 1
    assert f1("the black cat", ["black dog"]) == pytest.approx(2 / 4)
    assert exact_match("", []) == f1("", []) == 1
    assert exact_match("x", []) == f1("x", []) == f1("", ["x"]) == 0


@pytest.mark.parametrize("length", [12, 16, 24])
def test_the_answer_is_found_in_whichever_piece_has_it(tmp_path, length):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model(tmp_path / "model"))
    task = task_of("question_answering", {"stride": 4})
    rows = task.rows(tiny_table(questions(24, 0)))
    judged = task.encode(rows, tokenizer, length)
    assert all(len(piece["input_ids"]) <= length for piece in judged)
    starts, ends = np.zeros((2, len(judged), length))
    for at, piece in enumerate(judged):
        starts[at, piece["start_positions"]] = ends[at, piece["end_positions"]] = 5
    assert task.scores((starts, ends), None, judged) == {"f1": 1, "exact_match": 1} or length < 16
    assert task.scores((ends * 0, ends * 0), None, judged)["f1"] == 0.25, (
        "nothing said is right where nothing is to say"
    )


def test_squads_own_files_and_rows_are_the_same(tmp_path):
    rows = questions(8, 0)
    told = [
        {"qas": [{"question": r["question"], "answers": r["answers"], "is_impossible": not r["answers"]}]} for r in rows
    ]
    parts = [{**part, "context": row["context"]} for part, row in zip(told, rows, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps({"version": "2", "data": [{"title": "x", "paragraphs": parts}]}))
    hub = [{**r, "answers": {key: [a[key] for a in r["answers"]] for key in ("text", "answer_start")}} for r in rows]
    task = task_of("question_answering")
    one = task.read(tmp_path / "a.json")
    assert one == task.read(tiny.jsonl(tmp_path / "b.jsonl", hub)) == task.read(tiny.jsonl(tmp_path / "c.jsonl", rows))
    rows[1]["answers"][0]["answer_start"] += 1
    with pytest.raises(BadInput, match=r"line 2: the answer .* does not stand at character"):
        task.read(tiny.jsonl(tmp_path / "d.jsonl", rows))


# --- texts that are written --------------------


def pairs(size, seed):
    """A word and the one that sums it up, of two."""
    good = random.Random(seed).choices([0, 1], k=size)
    return [
        {"text": random.Random(i).choice(tiny.GOOD if g else tiny.BAD), "summary": WRITTEN[g]}
        for i, g in enumerate(good)
    ]


WRITTEN = ["bad", "good"]


@pytest.mark.parametrize("base", ["t5", "bart"])
def test_seq2seq(tmp_path, base):
    """Six words are learnt by heart: all is right. One answer to all has 7 in 10, a fresh model nothing."""
    tiny_seq2seq.BASES[base](tmp_path / "model")
    how = {"num_beams": 2, "max_new_tokens": 4, "method": "full", "prefix": "the ", "epochs": 16}
    fresh = run(
        recipe("seq2seq", tmp_path, pairs, **how, max_steps=1, learning_rate=1e-9, output=str(tmp_path / "fresh"))
    )
    result = run(recipe("seq2seq", tmp_path, pairs, **how))
    assert (result.metric, set(result.scores)) == ("rougeL", {"rougeL", "rouge1", "rouge2", "chrf", "exact_match"})
    assert fresh.scores["exact_match"] < 0.1
    assert max(Counter(row["summary"] for row in pairs(40, 1)).values()) < 0.7 * 40
    assert result.scores["exact_match"] > 0.9
    code, out, err = subspace("predict", str(tmp_path / "run"), "great", "dull", "--max-new-tokens", "4", "--json")
    assert code == 0, err
    assert [row["answer"] for row in json.loads(out)] == ["good", "bad"]
