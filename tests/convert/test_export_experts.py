"""Adapters on fused experts leave as PEFT's LoRA on target_parameters, or merged, and say the same."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cases import CASES
from mixtures import MODELS, mixture
from subspace_tuning import SubspaceConfig
from subspace_tuning.convert.change import change
from subspace_tuning.convert.combine import combine
from subspace_tuning.convert.export import export
from subspace_tuning.convert.layers import seats
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.errors import BadInput
from subspace_tuning.testing.law import label, relative

FUSED = ["experts.gate_up_proj", "experts.down_proj"]
IDS = torch.arange(4, 18).reshape(2, 7)


@pytest.fixture
def made(tmp_path):
    """Makes a base model and an adapter with random values on it, on disk; returns the adapter's folder and model."""

    def make(config, name="mixtral", folder="adapter", **values):
        base = tmp_path / "base"
        if not base.exists():
            mixture(name, **values).save_pretrained(base)
        torch.manual_seed(len(folder))
        adapted = get_peft_model(again(base), config).eval()
        with torch.no_grad():
            for p in adapted.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p), alpha=0.1)
        adapted.save_pretrained(tmp_path / folder)
        return tmp_path / folder, adapted

    return make


def again(base):
    return AutoModelForCausalLM.from_pretrained(base).eval()


def says(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("name", MODELS)
def test_peft_loads_what_is_exported_and_says_the_same(name, made, tmp_path):
    folder, model = made(SubspaceConfig(method="lora", r=2), name)
    certificate = export(folder, tmp_path / "out")
    assert certificate.exact
    assert {"down_proj.3", "gate_up_proj.0"} <= {k.split("experts.")[-1] for k in certificate.layers}
    theirs = PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / "out").eval()
    assert theirs.peft_config["default"].target_parameters
    plain = says(again(tmp_path / "base"))
    assert relative(says(model), plain) > 0.05
    assert relative(says(theirs), says(model)) < 1e-4
    assert relative(says(theirs.merge_and_unload()), says(model)) < 1e-4
    export(folder, tmp_path / "merged", to="merged")
    assert relative(says(again(tmp_path / "merged")), says(model)) < 1e-4


MAPS = [c for c in CASES if c.resolved.mergeable and c.method.sits_on == "weight" and not c.resolved.calibration]
MAPS = [c for c in MAPS if not c.resolved.shared]  # refused on fused experts


@pytest.mark.parametrize("case", MAPS, ids=label)
def test_every_map_of_the_weight_leaves_whole(case, made, tmp_path):
    folder, model = made(case.config(target_modules=FUSED), "gpt_oss", num_hidden_layers=1)
    want = says(model)
    for to in ("lora", "merged"):
        certificate = export(folder, tmp_path / to, to, Wanted(exact=to == "lora", max_error=1.0))
        assert len(certificate.layers) == 8
        assert certificate.exact == (certificate.largest_error < 1e-3)
        lost = any(layer.bias == "lost" for layer in certificate.layers.values())
        if to == "merged":
            theirs = again(tmp_path / to)
        else:
            theirs = PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / to).eval()
        assert lost or relative(says(theirs), want) < 1e-3


def test_ranks_of_experts_differ_and_what_is_lost_is_told(made, tmp_path):
    folder, model = made(SubspaceConfig(method="ssb", target_modules=FUSED))
    certificate = export(folder, tmp_path / "out", wanted=Wanted(energy=0.8))
    assert len({layer.rank for layer in certificate.layers.values()}) > 1
    layer = seats(model)["model.layers.0.mlp.experts.down_proj"]
    for part in layer.parts:
        made_of = change(layer, ["default"], part)
        S = made_of.svd.S.square()
        told = certificate.layers[part.under("model.layers.0.mlp.experts.down_proj")]
        assert told.error == pytest.approx((S[told.rank :].sum() / S.sum()).sqrt().item(), rel=1e-3)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert sorted(config["target_parameters"]) == sorted(FUSED)
    theirs = PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / "out").eval()
    assert relative(says(theirs), says(model)) == pytest.approx(
        certificate.logits.mean / certificate.logits.size, rel=2
    )


def test_some_experts_and_some_layers_go_by_whole_names(made, tmp_path):
    config = SubspaceConfig(method="lora", r=2, target_modules=["experts.down_proj", "q_proj"], layers_to_transform=[1])
    folder, model = made(config)
    export(folder, tmp_path / "out", to="peft")
    told = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert told["target_parameters"] == ["model.layers.1.mlp.experts.down_proj"]
    theirs = PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / "out").eval()
    assert relative(says(theirs), says(model)) < 1e-4


def test_biases_of_experts_leave_merged_alone(made, tmp_path):
    folder, model = made(SubspaceConfig(method="lora|bitfit", target_modules=FUSED), "gpt_oss")
    with pytest.raises(BadInput, match="change a bias, which a LoRA cannot carry"):
        export(folder, tmp_path / "out")
    export(folder, tmp_path / "out", to="merged")
    assert relative(says(again(tmp_path / "out")), says(model)) < 1e-4


@pytest.mark.parametrize("how", ["sum", "compose"])
def test_adapters_on_experts_are_combined(how, made, tmp_path):
    first, _ = made(SubspaceConfig(method="lora", r=2, target_modules=FUSED))
    second, _ = made(SubspaceConfig(method="ssb"), folder="other")
    combine([first, second], tmp_path / "lora", how=how, wanted=Wanted(exact=True))
    combine([first, second], tmp_path / "merged", to="merged", how=how)
    theirs = PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / "lora").eval()
    assert relative(says(theirs), says(again(tmp_path / "merged"))) < 1e-3
    if how == "sum":
        name = "model.layers.0.mlp.experts.gate_up_proj.2"
        both = [load_file(tmp_path / kind / "model.safetensors") for kind in ("base", "merged")]
        assert name.rpartition(".")[0] not in both[0]  # kept expert by expert on disk


def test_a_strength_holds_for_experts(made, tmp_path):
    folder, model = made(SubspaceConfig(method="lora", r=2, target_modules=FUSED))
    export(folder, tmp_path / "out", strength=0.5)
    theirs = PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / "out").eval()
    for p in (p for k, p in model.named_parameters() if ".B" in k):
        p.data /= 2
    assert relative(says(theirs), says(model)) < 1e-4


@pytest.mark.parametrize("broken", ["fewer", "wide", "missing"])
def test_an_adapter_that_does_not_fit_experts_is_refused(broken, made, tmp_path):
    from safetensors.torch import save_file

    folder, _ = made(SubspaceConfig(method="lora", r=2, target_modules=FUSED))
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    key = "base_model.model.model.layers.0.mlp.experts.down_proj.subspace_params.A"
    A = weights.pop(key)
    assert A.shape == (4, 24, 2)
    given = {"fewer": {key: A[:3].contiguous()}, "wide": {key: A[:, :5].contiguous()}, "missing": {}}[broken]
    save_file(weights | given, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"the adapter .* does not fit this model"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
