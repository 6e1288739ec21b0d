"""Micro-batches that are accumulated are one batch, whatever the model makes of its loss."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForSequenceClassification, GPT2Config, GPT2Model

from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import model, recipe

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
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


@pytest.mark.parametrize("takes_kwargs", [True, False])
@pytest.mark.parametrize("method", ["full", {"name": "lora", "r": 2}])
@pytest.mark.parametrize("task", [{}, REGRESSION], ids=["classification", "regression"])
@pytest.mark.parametrize("base", ["model", "gpt2"])
def test_accumulated_batches_are_one_batch(home, tmp_path, monkeypatch, base, task, method, takes_kwargs):
    monkeypatch.setattr(BertForSequenceClassification, "accepts_loss_kwargs", takes_kwargs, raising=False)
    changes = {"method": method, "model": str(home / base), "evaluate_every": "end", "save_every": "never", **task}
    # A step of SGD is the gradient, whatever its size; Adam would hide a factor.
    changes |= {"trainer": {"optim": "sgd"}, "learning_rate": 0.1, "max_grad_norm": 1e9, "epochs": 2, "warmup": 0.0}
    changes |= {"eval_batch_size": 40, "log_every": 3}
    for name, size in {"one": {"batch_size": 16}, "four": {"batch_size": 4, "gradient_accumulation": 4}}.items():
        run(make(recipe(home, **changes, **size, output=str(tmp_path / name))))
    kind = "model/model" if method == "full" else "adapter/adapter_model"
    one, four = (load_file(tmp_path / name / f"{kind}.safetensors") for name in ("one", "four"))
    for key, value in one.items():
        torch.testing.assert_close(four[key], value, atol=1e-5, rtol=1e-5)
