"""What training will need, told from a config."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import BertConfig, GPT2Config, LlamaConfig, T5Config, ViTConfig

import tiny
from command import subspace, words_of
from subspace_tuning import SubspaceConfig
from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import FULL, make
from subspace_tuning.bench.needs import OWN, Setting
from subspace_tuning.cli.estimate import size_of
from subspace_tuning.run.estimate import Subject, largest_batch, of_recipe
from subspace_tuning.run.recipe import make as recipe_of

SHAPE = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96}
BERT = BertConfig(**SHAPE, vocab_size=300)
LLAMA = LlamaConfig(**SHAPE, vocab_size=300, num_key_value_heads=2)
CLASSIFIER, LANGUAGE = "AutoModelForSequenceClassification", "AutoModelForCausalLM"
SMALL = Setting(batch=4, length=32)


def by(method):
    return FULL if method == FULL else lambda head: SubspaceConfig(method=method)


def kept(config, kind, method, setting=SMALL):
    """Bytes that autograd keeps in a real step."""
    torch.manual_seed(0)
    base = getattr(transformers, kind).from_config(config)
    data = measure.random_batch(base, setting.batch, setting.length, "cpu")
    contender = make(method, FULL if method == FULL else "ours", base)
    return measure.saved_bytes(measure.Step(contender, data))


@pytest.mark.parametrize("method", ["ssb", "lora", "dora", "oft", "houlsby", FULL])
def test_what_is_kept_is_what_a_real_step_keeps(method):
    """Tensors of a few numbers aside, and masks that nothing keeps."""
    real = kept(BERT, CLASSIFIER, method)
    assert Subject(BERT, by(method), CLASSIFIER).at(SMALL).activations == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("method", ["ssb", FULL])
def test_logits_are_told_apart(method):
    setting = replace(SMALL, length=30)
    needs = Subject(LLAMA, by(method), LANGUAGE).at(setting)
    assert needs.logits >= 2 * 4 * 4 * 30 * 300  # in single precision, and their gradient
    assert needs.activations < kept(LLAMA, LANGUAGE, method, setting)
    assert needs.peak > needs.weights + needs.optimizer + needs.activations + needs.logits / 2 + needs.own


@pytest.mark.parametrize("method", ["spectral_rotation", "lokr", "hira", "diff_pruning", "flexlora", "mam", "svft"])
def test_methods_of_every_form_are_told(method):
    needs = Subject(LLAMA, by(method), LANGUAGE).at(replace(SMALL, batch=1))
    assert 0 < needs.trained < needs.parameters
    assert needs.peak > needs.weights + needs.activations
    assert needs.gradients == 4 * needs.trained


def test_checkpointing_keeps_less_and_computes_more():
    plain, less = (Subject(LLAMA, by("lora"), LANGUAGE).at(replace(SMALL, gradient_checkpointing=c)) for c in (0, 1))
    assert less.activations < plain.activations / 2
    assert less.peak < plain.peak
    assert less.flops > plain.flops


def test_half_precision_and_optimisers():
    full = Subject(BERT, FULL, CLASSIFIER)
    plain = full.at(SMALL)
    assert full.at(replace(SMALL, dtype="bf16")).weights < 0.52 * plain.weights
    assert full.at(replace(SMALL, optimizer="sgd")).optimizer == 0
    assert full.at(replace(SMALL, optimizer="adamw8bit")).optimizer == plain.optimizer // 4
    assert full.at(replace(SMALL, gradient_accumulation=2)).peak == plain.peak + plain.gradients
    assert full.at(replace(SMALL, autocast=True)).activations < plain.activations
    assert full.at(replace(SMALL, device="cuda")).activations < plain.activations  # attention is not written down


def test_shares_of_several_processes():
    full = Subject(BERT, FULL, CLASSIFIER)
    one, ddp, zero2, fsdp = (
        full.at(replace(SMALL, processes=n, sharding=s)) for n, s in ((1, "ddp"), (2, "ddp"), (2, "zero2"), (2, "fsdp"))
    )
    assert ddp.peak == one.peak + one.gradients  # its buckets
    assert (zero2.weights, zero2.optimizer) == (one.weights, one.optimizer // 2)
    assert (fsdp.weights, fsdp.gradients) == (one.weights // 2, one.gradients // 2)
    assert 0 < fsdp.exchange < one.weights


def test_other_kinds_of_models():
    small = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
    vit = ViTConfig(**SHAPE, image_size=16, patch_size=4)
    for config, kind in (
        (T5Config(**small, decoder_start_token_id=0), "AutoModelForSeq2SeqLM"),
        (vit, "AutoModelForImageClassification"),
    ):
        assert Subject(config, by("lora"), kind).at(SMALL).activations > 0
    gpt2 = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=40)
    assert Subject(gpt2, by("lora"), LANGUAGE).at(SMALL).logits > 0


def test_the_largest_batch_that_fits():
    lora = Subject(BERT, by("lora"), CLASSIFIER)
    limit = OWN["cpu"] + 30e6
    found = largest_batch(lora, SMALL, limit)
    assert found.peak <= limit < lora.at(replace(SMALL, batch=found.setting.batch + 1)).peak
    assert largest_batch(lora, SMALL, OWN["cpu"]) is None


def test_the_command(tmp_path):
    BERT.save_pretrained(tmp_path)
    code, out, _ = subspace("estimate", tmp_path, "--method", "ssb", "--batch", 2, "--tflops", 1, "--json")
    told = json.loads(out)["estimate"]
    assert (code, told["setting"]["batch"], told["seconds"]) == (0, 2, told["flops"] / 1e12)
    code, out, _ = subspace("estimate", tmp_path / "config.json", "--method", "full", "--fit", "0.7GB")
    assert code == 0
    assert "peak" in out
    code, out, _ = subspace("estimate", tmp_path, "--method", "full", "--fit", "10MB")
    assert "dtype=bf16" in out
    for words, said in ((["--fit", "much"], "no amount of memory"), (["--optimizer", "lion"], "optimizer is one of")):
        code, _, err = subspace("estimate", tmp_path, "--method", "ssb", *words)
        assert (code, said in err) == (2, True)


def test_amounts():
    assert [size_of(t) for t in ("24GB", "1GiB", "512 MB", "1.5g")] == [24 * 10**9, 2**30, 512 * 10**6, 15 * 10**8]


def test_training_says_it_first_and_warns(tmp_path, monkeypatch):
    values = tiny.recipe(tmp_path, epochs=1, max_steps=1)
    monkeypatch.setattr("subspace_tuning.bench.memory.available", lambda: 0)
    monkeypatch.setattr("subspace_tuning.run.estimate.Subject.at", warned(tmp_path))
    code, _, err = subspace("train", *words_of(values), "--output", tmp_path / "run")
    assert code == 0
    assert err.index("warning: training needs about") >= 0


@pytest.mark.parametrize(("use_fsdp", "sharding"), [("false", "ddp"), ("true", "fsdp")])
def test_processes_of_a_run_have_their_share(tmp_path, monkeypatch, use_fsdp, sharding):
    made = recipe_of(tiny.recipe(tmp_path, batch_size=12)).resolved()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", use_fsdp)
    setting = of_recipe(made, [{"input_ids": [1] * 9}]).setting
    assert (setting.batch, setting.processes, setting.sharding) == (3, 4, sharding)


def warned(tmp_path):
    own = Subject.at

    def at(self, setting):
        assert setting.length > 3
        assert not (tmp_path / "run" / "adapter").exists()
        return own(self, setting)

    return at
