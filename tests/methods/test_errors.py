"""Bad input ends in one clear sentence, and the model is left as it was."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from cases import each
from models import batch, bert
from subspace_tuning import IA3, METHODS, SSB, SSL, BitFit, Composition, FLoRA, LoRA, SAMParser, SubspaceConfig, TriLoRA
from subspace_tuning.method.registry import UnknownMethod
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.tuner.layer import SubspaceLayer

RANKED = [name for name, cls in sorted(METHODS.items()) if hasattr(cls, "r")]


def refused(config, match, make=bert, kind=ValueError):
    """Putting the adapter on fails with one sentence, and the model computes and trains as before."""
    model, data = make(), batch()
    want, modules = model(**data).logits, {name: type(m) for name, m in model.named_modules()}
    with pytest.raises(kind, match=match) as caught:
        get_peft_model(model, config() if callable(config) else config)
    assert len(str(caught.value)) < 400
    assert {name: type(m) for name, m in model.named_modules()} == modules
    assert torch.equal(model(**data).logits, want)
    assert get_peft_model(model, SubspaceConfig(method="ssb"))(**data).logits.shape == want.shape


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UnknownMethod, match=r"unknown method 'lroa': did you mean 'lora'\? known methods are"):
        SubspaceConfig(method="lroa")
    with pytest.raises(ValueError, match="a method is a name"):
        SubspaceConfig(method=3)
    with pytest.raises(ValueError, match="two members or more"):
        Composition((SSB(),))


def test_a_pattern_that_matches_nothing():
    refused(SubspaceConfig(method="ssb", target_modules=["qeury"]), "qeury")
    refused(SubspaceConfig(method="ssb", target_modules=r".*layer\.9.*"), r"layer")
    refused(SubspaceConfig(method="ssb", layers_to_transform=[7]), "layers_to_transform")


@each(name=RANKED)
def test_a_rank_is_a_whole_number_above_zero(name):
    for r in (0, -1, 2.5, "4", True, None):
        if r is not None:
            with pytest.raises(ValueError, match=r"rank r is a whole number above 0, got r="):
                SubspaceConfig(method=name, r=r)


def test_a_size_that_only_a_later_layer_refuses_leaves_no_trace():
    banded = {"name": "svft", "pattern": "banded", "d": 16}
    later = ["query", "layer.1.output.dense"]
    config = SubspaceConfig(method="lora", target_modules=later, method_pattern={r"layer\.1\.output\.dense": banded})
    refused(config, r"layer\.1\.output\.dense.*d=16 must be below")


def test_an_adapter_that_fails_beside_another_leaves_that_one_alone():
    model, data = get_peft_model(bert(), SubspaceConfig(method="ssb", init_weights=False)).eval(), batch()
    want = model(**data).logits
    with pytest.raises(ValueError, match="d=99"):
        model.add_adapter("big", SubspaceConfig(method="svft", pattern="banded", d=99, target_modules=["query", "key"]))
    assert list(model.peft_config) == ["default"]
    assert not adapter_parameters(model, "big")
    assert torch.equal(model(**data).logits, want)
    assert sum(isinstance(m, SubspaceLayer) for m in model.modules()) == 6


@each(method=[SSB(), SSL(), IA3(), SAMParser(), LoRA(r=2), SSB() | BitFit()])
def test_a_matrix_method_on_a_layer_norm(method):
    refused(SubspaceConfig(method=method, target_modules=["LayerNorm"]), "LayerNorm holds none|LayerNorm holds no")


def test_bitfit_on_a_layer_without_bias():
    def make():
        model = bert()
        model.bert.encoder.layer[1].attention.self.query = nn.Linear(16, 16, bias=False)
        return model

    refused(SubspaceConfig(method="bitfit", target_modules=["query"]), "layer.1.*sits on biases, and this Linear", make)


def test_a_layer_that_no_method_knows():
    refused(SubspaceConfig(method="ssb", target_modules=["dropout"]), "no method can sit on Dropout: expected Linear")


@each(method=[SSB(), SSL(), IA3(), SAMParser(), BitFit(), SSB() | IA3()])
def test_mpc_needs_factors(method):
    with pytest.raises(ValueError, match="needs factors A and B"):
        SubspaceConfig(method=method, mpc="o")


def test_mpc_has_three_patterns():
    with pytest.raises(ValueError, match="mpc is one of o, d, n, got 'x'"):
        SubspaceConfig(method="lora", mpc="x")
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="mpc_weight is a number >= 0"):
            SubspaceConfig(method="lora", mpc="o", mpc_weight=weight)


@each(method=[LoRA, TriLoRA, FLoRA])
def test_dropout_is_a_probability(method):
    for value in (-0.1, 1.0, 2.0):
        with pytest.raises(ValueError, match=r"dropout is a probability in \[0, 1\)"):
            method(dropout=value)


def store(path, method, **shape):
    get_peft_model(bert(**shape), SubspaceConfig(method=method)).save_pretrained(path)
    return path / "adapter_model.safetensors"


@each(method=["ssb", "lora", "sam_parser", "bitfit"])
def test_an_adapter_for_another_shape_of_model(method, tmp_path):
    store(tmp_path, method, hidden_size=32)
    model, data = bert(), batch()
    want = model(**data).logits
    with pytest.raises(ValueError, match=r"size mismatch: .* of another model"):
        PeftModel.from_pretrained(model, tmp_path)
    torch.testing.assert_close(model(**data).logits, want)


def test_an_adapter_for_another_architecture(tmp_path):
    store(tmp_path, "ssb")
    plain = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"[Tt]arget modules"):
        PeftModel.from_pretrained(plain, tmp_path)
    assert plain(torch.ones(1, 4)).shape == (1, 4)


@each(keep=[0, 4, 100, -10])
def test_a_truncated_adapter_file(keep, tmp_path):
    file = store(tmp_path, "lora")
    file.write_bytes(file.read_bytes()[:keep])
    model, data = bert(), batch()
    want = model(**data).logits
    with pytest.raises(Exception, match=r"(?i)safetensor|header|buffer|metadata|empty") as caught:
        PeftModel.from_pretrained(model, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    torch.testing.assert_close(model(**data).logits, want)


def test_missing_and_foreign_keys_are_reported(tmp_path):
    file = store(tmp_path, "lora")
    tensors = load_file(file)
    gone = sorted(tensors)[0]
    save_file({("x." + k if k == gone else k): v for k, v in tensors.items()}, file)
    with pytest.raises(ValueError, match=r"1 of 24 tensors are missing .*, 1 are unknown \(x\."):
        PeftModel.from_pretrained(bert(), tmp_path)


def test_unknown_keywords_are_not_swallowed():
    with pytest.raises(
        ValueError, match=r"has no field 'rank'.*its fields are: alpha, dropout, init, r, rank_stabilized"
    ):
        SubspaceConfig(method="lora", rank=4)
    with pytest.raises(ValueError, match="has no field 'r'"):
        SubspaceConfig(method="ssb", r=4)
