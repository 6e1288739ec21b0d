"""Micro-batches that are accumulated are one batch, whatever the model makes of its loss."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForSequenceClassification, GPT2Config, GPT2Model

import tiny_sft
import tiny_sounds
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import model, recipe

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# A step of SGD is the gradient, whatever its size; Adam would hide a factor.
SGD = {"trainer": {"optim": "sgd"}, "learning_rate": 0.1, "max_grad_norm": 1e9, "epochs": 2, "warmup": 0.0}
SGD |= {"evaluate_every": "end", "save_every": "never", "log_every": 3}
REGRESSION = {"task": "regression", "labels": None, "label": "number"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accumulation")
    (folder / "model").mkdir()
    model(folder / "model", **STILL)
    recipe(folder)
    from tiny import data

    data(folder / "data", train=90)  # the last batch of an epoch is smaller
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "gpt2")
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": len(tokenizer)}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    GPT2Model(GPT2Config(**shape, **still, pad_token_id=0)).save_pretrained(folder / "gpt2")
    return folder


def one_and_four(out, method, values):
    """Scores, losses and weights of batches of 16, and of as many rows in four batches."""
    kind = "model/model" if method == "full" else "adapter/adapter_model"
    sizes = {"one": {"batch_size": 16}, "four": {"batch_size": 4, "gradient_accumulation": 4}}
    for name, size in sizes.items():
        judged = {"eval_batch_size": 40 if name == "one" else 4}
        result = run(make({**values, **SGD, **size, **judged, "method": method, "output": str(out / name)}))
        noted = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        told = [result.score, *(line["eval_loss"] for line in noted if "eval_loss" in line)]
        yield told, load_file(out / name / f"{kind}.safetensors")


def same(one, four):
    assert four[0] == pytest.approx(one[0], abs=1e-4)
    for key, value in one[1].items():
        torch.testing.assert_close(four[1][key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("takes_kwargs", [True, False])
@pytest.mark.parametrize("method", ["full", {"name": "lora", "r": 2}])
@pytest.mark.parametrize("task", [{}, REGRESSION], ids=["classification", "regression"])
@pytest.mark.parametrize("base", ["model", "gpt2"])
def test_accumulated_batches_are_one_batch(home, tmp_path, monkeypatch, base, task, method, takes_kwargs):
    monkeypatch.setattr(BertForSequenceClassification, "accepts_loss_kwargs", takes_kwargs, raising=False)
    same(*one_and_four(tmp_path, method, recipe(home, model=str(home / base), **task)))


def ctc(folder):
    tiny_sounds.wav2vec2(folder / "model")
    tiny_sounds.data(folder / "data", {"train": 22, "validation": 6})
    return {"task": "ctc", "model": str(folder / "model"), "data": str(folder / "data")}


def language(folder, rows, **changes):
    values = tiny_sft.recipe(folder, data=str(tiny_sft.data(folder / "data", rows, train=22, test=9)), **changes)
    del values["max_steps"]
    return values


def answers(folder):
    return language(folder, tiny_sft.chats)


def preferences(folder):
    return language(folder, tiny_sft.disputed, task="dpo", beta=1.0)


@pytest.mark.parametrize("kind", [answers, preferences, ctc])
def test_whatever_a_loss_is_a_mean_over(tmp_path, kind):
    """Rows, for preferences and for sounds, whose losses are means over letters already; tokens of answers."""
    one, four = one_and_four(tmp_path, "full", kind(tmp_path))
    same(one, four)
    if kind is preferences:
        assert 0 < one[0][0] < 1
