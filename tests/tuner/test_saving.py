"""Saving and loading gives the same model back, for every method: across dtypes, devices and neighbours."""

import copy
import json
from functools import cache

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from cases import CASES, SINGLE, each
from models import batch, bert
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.testing.cases import Case, adapter_parameters, stored_numbers
from subspace_tuning.testing.law import relative


@cache
def frozen_base(layers):
    torch.manual_seed(0)
    return bert(num_hidden_layers=layers)


@pytest.fixture
def base(request):
    """Makes the same base model anew: of one layer, of two where layers train parameters together."""
    case = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    model = frozen_base(2 if case is None or case.method.shared else 1)
    return lambda dtype=torch.float32: copy.deepcopy(model).to(dtype)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Adapters as they were saved, by case: read by many tests, changed by none."""
    made = {}

    def of(base, case):
        key = (case.method, case.mpc)
        if key not in made:
            path = tmp_path_factory.mktemp("adapter")
            made[key] = saved(base, case, path), path
        torch.manual_seed(1)  # the same inputs, whether it was made now or before
        return made[key]

    return of


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def saved(base, case, path, **values):
    """A model with random adapter values, stored at the path."""
    model = get_peft_model(base(), case.config(init_weights=False, **values)).eval()
    model.save_pretrained(path)
    return model


@each(case=CASES, low_cpu_mem_usage=[False, True])
def test_round_trip(case, low_cpu_mem_usage, base, folders):
    (model, path), inputs = folders(base, case), batch()
    assert {p.name for p in path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    again = PeftModel.from_pretrained(base(), path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert again.peft_config["default"].resolved() == case.resolved
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert not torch.equal(logits(again, inputs), logits(base(), inputs))


@each(case=CASES)
def test_a_checkpoint_holds_the_parameters_and_nothing_else(case, base, folders):
    model, path = folders(base, case)
    stored = load_file(path / "adapter_model.safetensors")
    held = adapter_parameters(model) | stored_numbers(model)
    mine = {k.replace(".default", ""): p for k, p in held.items()}
    assert set(stored) == set(mine)
    assert all(torch.equal(stored[k], mine[k]) for k in stored)


@each(case=CASES)
def test_the_config_names_the_method_with_all_its_fields(case, base, folders):
    _, path = folders(base, case)
    data = json.loads((path / "adapter_config.json").read_text())
    assert data["peft_type"] == "SUBSPACE"
    parts = data["method"] if isinstance(data["method"], list) else [data["method"]]
    members = getattr(case.method, "members", (case.method,))
    assert parts == [{"name": m.name, **vars(m)} for m in members]
    assert data["mpc"] == case.mpc
    again = PeftConfig.from_pretrained(path)
    assert (again.method, again.mpc) == (case.method, case.mpc)


@each(case=CASES)
def test_an_fp32_adapter_loads_onto_a_bf16_base(case, base, folders):
    (model, path), inputs = folders(base, case), batch()
    again = PeftModel.from_pretrained(base(torch.bfloat16), path)
    assert all(p.dtype == torch.float32 for p in adapter_parameters(again).values())
    y = logits(again, inputs)
    assert y.dtype == torch.bfloat16
    assert relative(y, logits(model, inputs)) < 5e-2
    for name, p in adapter_parameters(model).items():
        assert torch.equal(adapter_parameters(again)[name], p)


def test_a_change_much_larger_than_w_costs_a_bf16_base_what_rounding_phi_costs():
    """WaveFT at its own alpha, moved by tenths: dW is 38 times as long as W, and so is what bf16 makes of it."""
    torch.manual_seed(0)
    method = SubspaceConfig("waveft", alpha=25.0, frequencies=30, seed=1, init_weights=False)
    model, inputs = get_peft_model(bert(), method).eval(), batch()
    want = logits(model, inputs)
    rounded, on_rounded = copy.deepcopy(model).merge_and_unload().bfloat16(), copy.deepcopy(model)
    for name, p in on_rounded.named_parameters():
        p.data = p.data if "subspace_" in name else p.data.bfloat16()
    apart = [relative(logits(other, inputs).float(), want) for other in (on_rounded, rounded)]
    assert 1e-3 < apart[0] < 3 * apart[1]


@each(case=SINGLE)
def test_a_bf16_adapter_loads_onto_an_fp32_base(case, base, tmp_path):
    config = case.config(init_weights=False)
    model = get_peft_model(base(torch.bfloat16), config, autocast_adapter_dtype=False)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors").values()
    assert all(v.dtype == torch.bfloat16 for v in stored if v.is_floating_point())
    again = PeftModel.from_pretrained(base(), tmp_path)
    for name, p in adapter_parameters(model).items():
        assert torch.equal(adapter_parameters(again)[name].to(torch.bfloat16), p)
    assert relative(logits(again, batch()), logits(base(), batch())) > 1e-6


@each(case=SINGLE)
def test_device_maps(case, base, folders):
    (model, path), inputs = folders(base, case), batch()
    again = PeftModel.from_pretrained(base(), path, device_map={"": "cpu"})
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@each(how=[{"device_map": "cpu"}, {"torch_device": "cpu"}])
def test_a_device_by_its_name(how, base, tmp_path):
    model, inputs = saved(base, Case(SSB() | LoRA(r=2)), tmp_path), batch()
    again = PeftModel.from_pretrained(base(), tmp_path, **how)
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@each(case=CASES)
def test_two_adapters_of_different_methods(case, base, tmp_path):
    other = Case(SSB() if case.method.name.startswith("lora") else LoRA(r=2))
    inputs = batch()
    one, two = saved(base, case, tmp_path / "one"), saved(base, other, tmp_path / "two")
    model = PeftModel.from_pretrained(base(), tmp_path / "one", adapter_name="one")
    model.load_adapter(tmp_path / "two", adapter_name="two")
    assert torch.equal(logits(model, inputs), logits(one, inputs))
    model.set_adapter("two")
    assert torch.equal(logits(model, inputs), logits(two, inputs))
    assert {k for k, p in model.named_parameters() if p.requires_grad} == set(adapter_parameters(model, "two"))
    model.save_pretrained(tmp_path / "both")
    for name, alone in (("one", one), ("two", two)):
        again = PeftModel.from_pretrained(base(), tmp_path / "both" / name)
        assert torch.equal(logits(again, inputs), logits(alone, inputs))
    model.delete_adapter("one")
    assert torch.equal(logits(model, inputs), logits(two, inputs))
    assert not adapter_parameters(model, "one")


@each(case=CASES)
def test_modules_to_save_travel_along(case, base, tmp_path):
    model, inputs = get_peft_model(base(), case.config(init_weights=False, task_type="SEQ_CLS")), batch()
    assert sorted(model.peft_config["default"].modules_to_save) == ["classifier", "score"]
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(1.0)
    model.eval().save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert {k for k in stored if ".subspace_" not in k} == {
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }
    again = PeftModel.from_pretrained(base(), tmp_path)
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@each(case=CASES)
def test_training_continues_from_a_loaded_adapter(case, base, folders):
    _, path = folders(base, case)
    model = PeftModel.from_pretrained(base(), path, is_trainable=True)
    assert {k for k, p in model.named_parameters() if p.requires_grad} == set(adapter_parameters(model))
    frozen = PeftModel.from_pretrained(base(), path)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_merged_adapters_are_saved_as_they_are_unmerged(base, tmp_path):
    model, inputs = saved(base, Case(LoRA(r=2)), tmp_path / "a"), batch()
    want = logits(model, inputs)
    model.merge_adapter()
    model.save_pretrained(tmp_path / "b")
    again = PeftModel.from_pretrained(base(), tmp_path / "b")
    assert torch.equal(logits(again, inputs), want)


def test_a_config_reads_back_equal(tmp_path):
    config = SubspaceConfig(
        method=SSB() | LoRA(r=4, alpha=1.5),
        mpc="o",
        mpc_weight=0.3,
        target_modules=["query", "value"],
        exclude_modules=["layer.0"],
        layers_to_transform=[1],
        layers_pattern=["layer"],
        modules_to_save=["classifier"],
        rank_pattern={"query": 2},
        alpha_pattern={"value": 3.0},
        init_weights=False,
    )
    config.save_pretrained(tmp_path)
    again = SubspaceConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.method == config.method
