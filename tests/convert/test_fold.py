"""Scales of inputs go into the norm before, where that is exact, and into the weight elsewhere."""

import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from typer.testing import CliRunner

from cases import each
from models import batch, bert, gpt2, llama, t5, vit
from subspace_tuning import SSB, SSL, LoRA, SubspaceConfig
from subspace_tuning.cli import app
from subspace_tuning.convert.change import change
from subspace_tuning.convert.export import export
from subspace_tuning.convert.fold import plan
from subspace_tuning.convert.layers import seats
from subspace_tuning.convert.probe import answers, probe
from subspace_tuning.errors import BadInput


def adapted(make, method, targets, **values):
    torch.manual_seed(0)
    config = SubspaceConfig(method=method, init_weights=False, target_modules=targets, **values)
    return get_peft_model(make(), config).eval()


def saved(model, folder):
    """A base model and its adapter on disk; returns the adapter's folder."""
    copy = type(model.get_base_model())(model.get_base_model().config)
    own = {k.replace(".base_layer", ""): v for k, v in model.get_base_model().state_dict().items()}
    copy.load_state_dict({k: v for k, v in own.items() if "subspace_" not in k})
    copy.save_pretrained(folder / "base")
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(folder / "adapter")
    return folder / "adapter"


def tie(model, names):
    """Give the layers of each block whose names end so the same scales."""
    held = {}
    for name, layer in seats(model).items():
        if name.endswith(names):
            d = layer.subspace_params["default"]["delta"].data
            d.copy_(held.setdefault(name.split(".self_attn")[0], d.clone()))


def test_gpt2_keeps_every_weight_matrix_bit_for_bit(tmp_path):
    model = adapted(gpt2, SSL(), ["c_attn", "c_fc"])
    certificate = export(saved(model, tmp_path), tmp_path / "out", "merged", scales="norm")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "out"))
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all(".ln_" in k for k in changed)
    assert set(certificate.norms.values()) == {"folded"}
    assert {layer.norm for layer in certificate.layers.values()} == set(certificate.norms)
    assert certificate.exact
    assert certificate.logits.largest < 1e-5 * certificate.logits.size < certificate.moved.largest
    again = gpt2().from_pretrained(tmp_path / "out").eval()
    inputs = batch(gpt2)
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_ssb_leaves_its_output_scales_in_the_weight(tmp_path):
    model = adapted(gpt2, LoRA(r=2) | SSB(), ["c_fc"])
    certificate = export(saved(model, tmp_path), tmp_path / "out", "merged", scales="norm")
    assert all(layer.norm.endswith("ln_2") for layer in certificate.layers.values())
    assert certificate.logits.largest < 1e-5 * certificate.logits.size < certificate.moved.largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_folds_where_all_readers_agree(dtype):
    readers = ("q_proj", "k_proj", "v_proj")
    model = adapted(llama, SSL(), [*readers, "up_proj"])
    inputs = probe(model)
    assert not plan(model, inputs).folds
    tie(model, readers)
    model = model.to(dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = plan(model, inputs)
    assert {fold.norm.rpartition(".")[2] for fold in found.folds} == {"input_layernorm"}
    assert {said for norm, said in found.told.items() if "post" in norm} != {"folded"}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # looking changes nothing


@each(make=[bert, vit, t5])
def test_only_norms_that_feed_weights_alone_take_scales(make):
    """BERT's norms feed the residual stream, ViT's and T5's stand before the weights."""
    targets = {"bert": ["intermediate.dense"], "vit": r".*mlp\.fc1|.*intermediate\.dense", "t5": ["wi"]}[make.__name__]
    model = adapted(make, SSL(), targets)
    found = plan(model, probe(model))
    assert found.told
    assert len(found.folds) == (0 if make is bert else len(found.told))
    inputs = probe(model)
    before = answers(model, inputs)
    for name, layer in seats(model).items():
        found.write(name, layer.frozen, change(layer, ["default"]))
    found.scale_norms()
    model.base_model.disable_adapter_layers()
    for a, b in zip(before, answers(model, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_on_the_command_line(tmp_path):
    adapter = saved(adapted(bert, SSL(), ["intermediate.dense"]), tmp_path)
    words = ["export", str(adapter), str(tmp_path / "out"), "--to", "merged", "--scales", "norm", "--json"]
    told = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert all("alone read it" in said for said in told["norms"].values())
    assert all(layer["norm"] == "" for layer in told["layers"].values())
    with pytest.raises(BadInput, match="merged"):
        export(adapter, tmp_path / "other", "lora", scales="norm")
    assert not (tmp_path / "other").exists()
