"""A run on a mixture of experts, from its recipe to what others load."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralModel

import tiny
from subspace_tuning.errors import BadInput
from subspace_tuning.run.merged import merge
from subspace_tuning.run.packed import train_packed
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
SIZES |= {"intermediate_size": 12, "num_local_experts": 3, "max_position_embeddings": 32, "pad_token_id": 0}


def recipe(folder, **values):
    """On a mixture with the tokenizer and the data of the other tiny runs."""
    if not (folder / "model").exists():
        tiny.model(folder / "model")
        tiny.data(folder / "data", 16, 8)
        words = len(tiny.SPECIAL + tiny.GOOD + tiny.BAD + tiny.FILLER)
        MixtralModel(MixtralConfig(vocab_size=words, **SIZES)).save_pretrained(folder / "model")
    return make(tiny.recipe(folder, epochs=1, **values))


def test_a_start_that_looks_at_data_is_made_in_a_run(tmp_path):
    result = run(recipe(tmp_path, method={"name": "lora", "r": 2, "init": "eva"}, calibration_batches=1, max_steps=6))
    assert result.trainable > 3 * 2 * (16 + 24 + 12 + 16)
    merge(tmp_path / "run", tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "merged"))
    told = {key.removeprefix("model."): value for key, value in after.items() if "experts" in key}
    assert len(told) == 3 * 3  # gate, up and down of each, as mixtures are kept
    assert not all(torch.equal(value, before[key]) for key, value in told.items())


def test_packed_runs_on_experts_are_refused(tmp_path):
    recipes = [recipe(tmp_path, seed=seed, output=str(tmp_path / f"run{seed}")) for seed in (0, 1)]
    with pytest.raises(BadInput, match="leave the experts out by exclude_modules"):
        train_packed(recipes)
    apart = [r.model_copy(update={"exclude_modules": ["experts.gate_up_proj"]}) for r in recipes]
    assert [result.steps for result in train_packed(apart, again=True)] == [1, 1]
