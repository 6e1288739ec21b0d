"""Full fine-tunes of mixtures, however their checkpoints keep the experts, are fitted expert by expert."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from command import subspace
from mixtures import MODELS, mixture
from subspace_tuning.errors import BadInput
from subspace_tuning.testing.law import relative
from subspace_tuning.theory.analyze import Look, analyze
from subspace_tuning.weights.experts import with_experts

IDS = torch.arange(4, 18).reshape(2, 7)


def experts(model):
    """name -> W (n, m) of each expert, as the model holds it."""
    found = {}
    for name, module in with_experts(model):
        if type(module).__name__ == "Experts":
            for i, own in enumerate(module.weight):
                found[f"{name}.{i}"] = own if module.turned else own.T
    return found


def pair(folder, name="mixtral", low_rank=False, fused=False, **values):
    """A base and a fine-tune in which experts alone changed, the last one not; returns both models."""
    net = mixture(name, num_hidden_layers=1, first_k_dense_replace=0, **values)
    net.save_pretrained(folder / "base")
    before = mixture(name, num_hidden_layers=1, first_k_dense_replace=0, **values)
    with torch.no_grad():
        for expert, W in list(experts(net).items()):
            if not expert.endswith(".3"):
                thin = torch.randn(W.shape[0], 1) @ torch.randn(1, W.shape[1])
                W.add_(thin if low_rank else torch.randn_like(W), alpha=0.05)
    net.save_pretrained(folder / "tuned", save_original_format=not fused)
    return before, net


def fitted(folder, *words):
    words = ("--output", folder / "fit", *words, "--json")
    code, printed, err = subspace("fit", folder / "base", folder / "tuned", *words)
    assert code == 0, err
    report = json.loads(printed)
    return {family["name"]: family for family in report["families"]}, report


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_fits_are_eckart_young_by_expert(name, fused, tmp_path):
    before, after = pair(tmp_path, name, fused=fused)
    keys = load_file(tmp_path / "tuned/model.safetensors")
    assert any(key.endswith("gate_up_proj") for key in keys) == (fused or name in ("gpt_oss", "llama4_text"))
    found, report = fitted(tmp_path, "--methods", "lora,ssl", "--rank", "2")
    W, W_star = experts(before), experts(after)
    layers = found["lora"]["layers"]
    assert set(layers) == {k for k in W if not k.endswith(".3")}
    assert {k for k in report["unchanged"] if "experts." in k} >= {k for k in W if k.endswith(".3")}
    assert report["left_out"] == []
    for key, layer in layers.items():
        S = torch.linalg.svdvals((W_star[key] - W[key]).double()).square()
        assert layer["captured_energy"] == pytest.approx((S[:2].sum() / S.sum()).item(), abs=1e-4)
        assert layer["parameters"] == 2 * sum(W[key].shape)


@pytest.mark.parametrize(("method", "name"), [("lora", "qwen3_moe"), ("lora", "gpt_oss"), ("flora", "mixtral")])
def test_an_extracted_fit_is_the_fine_tune_where_it_can_be(method, name, tmp_path):
    before, after = pair(tmp_path, name, low_rank=True)
    fitted(tmp_path, "--save", method, tmp_path / "adapter", "--rank", "1")
    model = PeftModel.from_pretrained(before, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert relative(model(input_ids=IDS).logits, after(input_ids=IDS).logits) < 1e-3
    code, _, err = subspace("export", tmp_path / "adapter", tmp_path / "lora", "--base", tmp_path / "base")
    assert code == 0, err


def test_an_energy_gives_all_experts_of_a_parameter_the_rank_that_the_hardest_needs(tmp_path):
    before, after = pair(tmp_path)
    found, _ = fitted(tmp_path, "--save", "lora", tmp_path / "adapter", "--energy", "0.7")
    W, W_star = experts(before), experts(after)
    for own in ("gate_up_proj", "down_proj"):
        layers = {k: x for k, x in found["lora"]["layers"].items() if own in k}
        (rank,) = {x["r"] for x in layers.values()}
        S = [torch.linalg.svdvals((W_star[k] - W[k]).double()).square().cumsum(0) for k in layers]
        assert rank == max(int((s < 0.7 * s[-1]).sum()) + 1 for s in S)
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert all(len(value) == 4 for value in weights.values())


def test_a_fine_tune_of_experts_is_analyzed_one_by_one(tmp_path):
    before, after = pair(tmp_path)
    data = analyze(tmp_path / "tuned", str(tmp_path / "base"), look=Look(r=2))
    W, W_star = experts(before), experts(after)
    assert set(data["layers"]) == {k for k in W if not k.endswith(".3")}
    for key, x in data["layers"].items():
        assert x["relative_change"] == pytest.approx(relative(W_star[key], W[key]), rel=1e-3)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_an_adapter_on_experts_is_analyzed_one_by_one(name, tmp_path):
    before, after = pair(tmp_path, name, low_rank=True)
    fitted(tmp_path, "--save", "lora", tmp_path / "adapter", "--rank", "1")
    data = analyze(
        tmp_path / "adapter", str(tmp_path / "base"), target=tmp_path / "tuned", look=Look(r=2, scales=(0.5,))
    )
    W, W_star = experts(before), experts(after)
    assert set(data["layers"]) == {k for k in W if not k.endswith(".3")}
    for key, x in data["layers"].items():
        assert x["relative_change"] == pytest.approx(relative(W_star[key], W[key]), rel=1e-2)
        assert x["optimal_scale"] == pytest.approx(1, rel=1e-2)


def test_diff_puts_pieces_together(tmp_path):
    pair(tmp_path)
    pair(tmp_path / "other", fused=True)
    code, out, err = subspace("diff", tmp_path / "tuned", tmp_path / "other/base")
    assert code == 0, err
    assert "changed" in out
    assert "only in" not in out
    code, out, _ = subspace("diff", tmp_path / "base", tmp_path / "other/base", "--json")
    assert code == 0
    assert {one["state"] for one in json.loads(out)} == {"same"}


def test_what_changed_and_no_method_knows_is_named(tmp_path):
    net = mixture()
    net.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        net.model.norm.weight.add_(1)
    net.save_pretrained(tmp_path / "tuned")
    words = ("--output", tmp_path / "fit", "--methods", "ssl")
    code, _, err = subspace("fit", tmp_path / "base", tmp_path / "tuned", *words)
    assert code == 2
    assert "model.norm.weight" in err
    with pytest.raises(BadInput, match=r"changes no weight matrix; what changed is model\.norm\.weight"):
        analyze(tmp_path / "tuned", str(tmp_path / "base"))
    with torch.no_grad():
        net.model.layers[0].self_attn.q_proj.weight.add_(0.1)
    net.save_pretrained(tmp_path / "tuned")
    words = ("--output", tmp_path / "again", "--methods", "ssl")
    code, out, _ = subspace("fit", tmp_path / "base", tmp_path / "tuned", *words)
    assert code == 0
    assert "changed, but not fitted: model.norm.weight" in out
    assert analyze(tmp_path / "tuned", str(tmp_path / "base"))["left_out"] == ["model.norm.weight"]
