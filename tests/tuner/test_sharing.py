"""Parameters shared between the layers of whole models: budgets, groups, refusals, checkpoints, optimisers, exports."""

import json
from dataclasses import dataclass

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from cases import each
from mixtures import mixture
from models import batch, bert, gpt2
from subspace_tuning import LoRA, SubspaceConfig, set_strength
from subspace_tuning.errors import BadInput
from subspace_tuning.methods import PiCa, TiedLoRA, TinyLoRA, UniLoRA
from subspace_tuning.methods.extend.lora import LowRank
from subspace_tuning.optim import create
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.adapter import read
from subspace_tuning.tuner.budget import budget
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.shared import HOME

LINEAR = ["query", "key", "value"]


def tuned(method, make=bert, **values):
    torch.manual_seed(0)
    return get_peft_model(make(), SubspaceConfig(method=method, init_weights=False, **values)).eval()


def layers(model):
    return [m for m in model.modules() if isinstance(m, SubspaceLayer)]


def numbers(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (TinyLoRA(), 13),
        (TinyLoRA(tie="kind"), 3 * 13),
        (TinyLoRA(tie="none"), 6 * 13),
        (UniLoRA(d=50), 50),
        (PiCa(r=2, tie="kind"), 3 * 2 * 16),
        (TiedLoRA(r=2), 2 * 32 + 6 * (2 + 16)),
        (TinyLoRA() | LoRA(r=1), 13 + 6 * 32),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_budgets_count_what_is_shared_once(method, count, tmp_path):
    model = tuned(method, target_modules=LINEAR)
    assert numbers(model) == count
    bert().save_pretrained(tmp_path)
    assert budget(str(tmp_path), SubspaceConfig(method=method, target_modules=LINEAR)).trainable == count
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(v.numel() for v in saved.values()) == count


def test_layers_of_other_shapes_share_apart():
    model = tuned(TiedLoRA(r=2), target_modules=["query", "intermediate.dense", "attention.output.dense"])
    keys = {k.rpartition(".")[2] for k in adapter_parameters(model) if HOME in k}
    assert keys == {f"{name}@tied_lora@{size}" for name in "AB" for size in ("16x16", "16x24")}


@pytest.mark.parametrize(
    ("method", "values"),
    [
        (TiedLoRA(r=2), {"rank_pattern": {"layer.1.attention.self.query": 3}}),
        (PiCa(r=2, tie="model"), {"target_modules": ["query", "intermediate.dense"]}),
    ],
    ids=["ranks", "shapes"],
)
def test_a_group_of_several_sizes_is_refused_and_leaves_nothing(method, values):
    net = bert()
    before = set(net.state_dict())
    with pytest.raises(ValueError, match=r"shares \w between .* its size differs among them"):
        get_peft_model(net, SubspaceConfig(method=method, **values))
    assert set(net.state_dict()) == before


def test_scales_may_differ_within_a_group():
    model = tuned(TiedLoRA(r=2), alpha_pattern={"layer.1.attention.self.query": 1.0})
    assert {layer.methods["default"].alpha for layer in layers(model)} == {16.0, 1.0}


def test_fused_experts_are_refused():
    with pytest.raises(ValueError, match="shares parameters between layers, and fused experts"):
        get_peft_model(mixture(), SubspaceConfig(method=TinyLoRA(), target_modules=["experts.gate_up_proj"]))


@each(make=[bert, gpt2])
def test_an_adapter_of_transformers_own_is_saved_and_loaded(make, tmp_path):
    net, inputs = make(), batch(make)
    net.save_pretrained(tmp_path / "base")
    net.add_adapter(SubspaceConfig(method=TinyLoRA(u=4), init_weights=False))
    want = net(**inputs).logits
    net.save_pretrained(tmp_path / "adapter")
    again = type(net).from_pretrained(tmp_path / "base")
    again.load_adapter(str(tmp_path / "adapter"))
    assert relative(again.eval()(**inputs).logits, want) < 1e-6
    again.disable_adapters()
    assert relative(again(**inputs).logits, want) > 1e-6


def test_what_is_shared_is_kept_in_single_precision():
    net = bert().to(torch.bfloat16)
    model = get_peft_model(net, SubspaceConfig(method=TinyLoRA() | TiedLoRA(r=2)))
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}


def test_a_damaged_checkpoint_is_refused(tmp_path):
    base = bert()
    tuned(TinyLoRA(tie="kind"), target_modules=LINEAR).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    whole = load_file(path)
    adapter = read(tmp_path)
    adapter.check(base)
    key = f"base_model.model.{HOME}.v@tinylora@key"
    for broken, says in (
        ({k: v for k, v in whole.items() if k != key}, "lacks v@tinylora@key"),
        ({**whole, f"{key}s": torch.zeros(13)}, "no layer shares"),
        ({**whole, key: torch.zeros(3)}, "size mismatch"),
    ):
        save_file(broken, path)
        with pytest.raises(BadInput, match=says):
            read(tmp_path).check(base)
    save_file(whole, path)
    model = read(tmp_path).on(base)
    assert isinstance(model, PeftModel)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["method"]["tie"] == "kind"


def test_one_strength_for_what_is_shared_and_one_layer_at_another():
    model, inputs = tuned(TinyLoRA(), target_modules=LINEAR), batch(bert)
    whole = model(**inputs).logits
    set_strength(model, 0.0)
    with model.disable_adapter():
        plain = model(**inputs).logits
    assert torch.equal(model(**inputs).logits, plain)
    set_strength(model, 1.0)
    assert torch.equal(model(**inputs).logits, whole)


@dataclass(frozen=True)
class HalfTied(LowRank):
    """phi(W) = W + s A B, A shared by layers of one shape."""

    category = "extension"
    name = "tests_half_tied"
    shared = {"A": "shape"}

    def parameters(self, n, m):
        return LoRA(r=self.r).factors(n, m)

    def phi(self, W, p):
        return W + self.s * (p.A @ p.B)


def test_optimisers_of_pairs_take_a_shared_pair_once_and_refuse_half_of_one():
    model = tuned(TiedLoRA(r=2), target_modules=LINEAR)
    optimizer = create("lora_plus", model, 0.01)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    fast = [p for group in optimizer.param_groups if group["lr"] > 0.01 for p in group["params"]]
    assert [tuple(p.shape) for p in fast] == [(2, 16)]
    with pytest.raises(BadInput, match="layers share only one of them"):
        create("riemannian", tuned(HalfTied(r=2), target_modules=LINEAR), 0.01)


def test_a_second_tuning_starts_anew(tmp_path):
    model = tuned(TinyLoRA(), target_modules=LINEAR)
    plain = model.merge_and_unload()
    assert not any(HOME in name for name, _ in plain.named_modules())
    again = get_peft_model(plain, SubspaceConfig(method=TinyLoRA(u=5), target_modules=LINEAR))
    assert numbers(again) == 5
    again.delete_adapter("default")
    assert not any(HOME in name for name, _ in again.named_modules())
    assert all(not isinstance(p, nn.Parameter) or not p.requires_grad for p in again.parameters())
