"""Queries, keys and values of a fused weight are tuned apart, and the fused layer is what it was but for them."""

import copy
import json
import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from model_types import ARCHITECTURES
from quantised import BITSANDBYTES
from subspace_tuning import SubspaceConfig
from subspace_tuning.convert.export import export
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.structure.fused import fused_layers
from subspace_tuning.theory.analyze import analyze
from subspace_tuning.theory.places import shared
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import Unsupported

FUSED = ["gpt2", "gpt_bigcode", "bloom", "falcon", "gpt_neox", "phi3", "modernbert", "mpt", "codegen", "persimmon"]


def base_of(kind):
    return ARCHITECTURES[kind].model(kind)


def put(model, **values):
    """The model with an adapter whose parameters are random."""
    return get_peft_model(model, SubspaceConfig(init_weights=False, **values)).eval()


def fused_qkv(model):
    """Its fused weights of attention by name, each with the places of the columns of each role, and (n, m)."""
    for name, host, layout in fused_layers(model):
        if "query" in dict(layout.run):
            W = host.weight if host.weight.shape[-1] == layout.width else host.weight.T
            yield name, {role: layout.columns(role) for role, _ in layout.run}, W.detach().clone()


@pytest.mark.parametrize("kind", FUSED)
def test_keys_and_values_are_tuned_by_default_and_queries_are_not(kind):
    base = base_of(kind)
    before = {name: (columns, W) for name, columns, W in fused_qkv(base)}
    assert before
    torch.manual_seed(1)
    inputs = ARCHITECTURES[kind].inputs()
    model = put(base, method="ssb")
    held = {name: m for name, m in base.named_modules() if isinstance(m, SubspaceLayer)}
    scales = {k: {n: p.detach().clone() for n, p in m.subspace_params["default"].items()} for k, m in held.items()}
    want = model(**inputs).logits
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.merge_adapter()
    torch.testing.assert_close(model(**inputs).logits, want, atol=1e-5, rtol=1e-5)
    model.unmerge_adapter()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    plain = model.merge_and_unload()
    torch.testing.assert_close(plain(**inputs).logits, want, atol=1e-5, rtol=1e-5)
    assert set(plain.state_dict()) == set(base_of(kind).state_dict())
    for name, columns, W in fused_qkv(plain):
        old = before[name][1]
        assert torch.equal(W[:, columns["query"]], old[:, columns["query"]])
        for role in ("key", "value"):
            D1, D2 = (1 + scales[f"{name}.{role}"][k] for k in sorted(scales[f"{name}.{role}"]))
            own = old[:, columns[role]]
            torch.testing.assert_close(W[:, columns[role]], D1.unsqueeze(1) * own * D2, atol=1e-6, rtol=1e-5)


def test_the_table_of_whose_columns_are_whose_is_what_attention_does_with_them():
    """Keys that are zeroed leave attention uniform; so of GPT-NeoX's output nothing else but the values counts."""
    base = base_of("gpt_neox")
    for name, columns, _ in list(fused_qkv(base)):
        host = base.get_submodule(name)
        host.weight.data[columns["key"]] = 0
        host.bias.data[columns["key"]] = 0
    inputs = ARCHITECTURES["gpt_neox"].inputs()
    want = base(**inputs).logits
    model = put(base, method="lora", r=2, target_modules=["query_key_value.query"])
    torch.testing.assert_close(model(**inputs).logits, want)


@pytest.mark.parametrize("method", ["ssb", "lora", "dora"])
@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_saved_and_loaded(kind, method, tmp_path):
    inputs = ARCHITECTURES[kind].inputs()
    where = re.sub(".*[.]", "", next(fused_qkv(base_of(kind)))[0])
    model = put(base_of(kind), method=method, target_modules=[f"{where}.query", f"{where}.value"])
    model.save_pretrained(tmp_path)
    assert {k.split(f"{where}.")[1].split(".")[0] for k in load_file(tmp_path / "adapter_model.safetensors")} == {
        "query",
        "value",
    }
    again = PeftModel.from_pretrained(base_of(kind), tmp_path).eval()
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, atol=0, rtol=0)
    twin = copy.deepcopy(model)
    model.delete_adapter("default")
    torch.testing.assert_close(twin(**inputs).logits, again(**inputs).logits, atol=0, rtol=0)


def test_each_slice_has_a_method_of_its_own_and_the_base_computes_what_it_did():
    inputs, base = ARCHITECTURES["gpt2"].inputs(), base_of("gpt2")
    want = base(**inputs).logits
    model = put(
        base,
        method="lora",
        r=2,
        target_modules=["c_attn.key", "c_attn.value"],
        rank_pattern={"c_attn.key": 3},
        layers_to_transform=[1],
    )
    ranks = {n: p.shape for n, p in model.named_parameters() if p.requires_grad and n.endswith(".A")}
    assert [(n.split(".")[4], n.split(".")[7], tuple(s)) for n, s in ranks.items()] == [
        ("1", "key", (16, 3)),
        ("1", "value", (16, 2)),
    ]
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, want)
    plain = model.unload()
    assert torch.equal(plain(**inputs).logits, want)
    assert not any(m._forward_hooks for m in plain.modules() if not list(m.children()))


def test_training_moves_only_the_slices_and_gradients_are_those_of_the_merged_weight():
    model, inputs = put(base_of("bloom"), method="lora", r=2, target_modules=["query_key_value.value"]), None
    inputs = ARCHITECTURES["bloom"].inputs()
    model.train()(**inputs).loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert grads
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values())
    assert all(".value." in n for n in grads)


BESIDE = {"slices": {"method": "ssb"}, "whole": {"method": "lora", "r": 2, "target_modules": ["c_attn"]}}


def beside(first):
    """One adapter on the whole of GPT-2's fused weights and one on their slices, either added first."""
    torch.manual_seed(3)
    base, (second,) = base_of("gpt2"), BESIDE.keys() - {first}
    model = get_peft_model(base, SubspaceConfig(init_weights=False, **BESIDE[first]), first)
    model.add_adapter(second, SubspaceConfig(init_weights=False, **BESIDE[second]))
    return model.eval()


@pytest.mark.parametrize("first", BESIDE)
def test_one_adapter_on_the_whole_beside_one_on_slices_is_each_alone(first, tmp_path):
    inputs, model = ARCHITECTURES["gpt2"].inputs(), beside(first)
    base = base_of("gpt2")
    with model.disable_adapter():
        base_logits = model(**inputs).logits
    want = {}
    model.save_pretrained(tmp_path)
    for name in BESIDE:
        model.set_adapter(name)
        want[name] = model(**inputs).logits
        folder = tmp_path / name
        weights = {
            k.removeprefix("base_model.model.").replace(".base_layer", ""): v for k, v in model.state_dict().items()
        }
        base = base_of("gpt2")
        base.load_state_dict({k: weights[k] for k in base.state_dict()})
        again = PeftModel.from_pretrained(base, folder).eval()
        torch.testing.assert_close(again(**inputs).logits, want[name], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(want[name], base_logits, atol=1e-3)
        model.merge_adapter()
        torch.testing.assert_close(model(**inputs).logits, want[name], atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="shares its weight with"):
            model.merge_adapter(list(BESIDE.keys() - {name}))
        model.unmerge_adapter()
        torch.testing.assert_close(model(**inputs).logits, want[name], atol=0, rtol=0)
        plain = copy.deepcopy(model).merge_and_unload()
        torch.testing.assert_close(plain(**inputs).logits, want[name], atol=1e-5, rtol=1e-5)
        assert not any(m._forward_hooks for m in plain.modules() if not list(m.children()))
    for gone in BESIDE:
        twin = copy.deepcopy(model)
        twin.delete_adapter(gone)
        (left,) = BESIDE.keys() - {gone}
        twin.set_adapter(left)
        torch.testing.assert_close(twin(**inputs).logits, want[left], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("merged", BESIDE)
def test_an_adapter_beside_a_merged_one_starts_from_the_original(merged):
    (other,) = BESIDE.keys() - {merged}
    seats = {"slices": ["c_attn.key", "c_attn.value"], "whole": ["c_attn"]}[other]
    model, plain = beside(merged), beside(merged)
    plain.add_adapter("third", SubspaceConfig(method="svdiff", target_modules=seats))
    model.set_adapter(merged)
    layer = model.base_model.model.transformer.h[0].attn.c_attn
    for own in (layer, layer.key, layer.value) if merged == "whole" else (layer.key, layer.value, layer):
        if merged in own.methods:
            own.merge(adapter_names=[merged])
    for own in (layer, layer.key):
        if other in own.methods:
            own.add("third", SubspaceConfig(method="svdiff").method)
            wanted = plain.base_model.model.get_submodule(own.path).constants("third")
            assert wanted
            assert all(torch.equal(v, wanted[k]) for k, v in own.constants("third").items())


@pytest.mark.parametrize("first", BESIDE)
def test_the_whole_and_its_slices_are_not_active_at_once(first):
    model = beside(first)
    model.base_model.set_adapter(list(BESIDE))
    with pytest.raises(ValueError, match="activate one at a time"):
        model(**ARCHITECTURES["gpt2"].inputs())


@pytest.mark.parametrize("first", BESIDE)
def test_rows_of_one_batch_go_by_the_whole_by_slices_or_by_neither(first):
    model = beside(first)
    one = {k: v[:1] for k, v in ARCHITECTURES["gpt2"].inputs().items()}
    ids = torch.randint(3, 30, (7, one["input_ids"].shape[1]))
    names = ["slices", "__base__", "whole", "slices", "whole", "__base__", "slices"]
    mixed = model(input_ids=ids, adapter_names=names).logits
    for i, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                alone = model(input_ids=ids[i : i + 1]).logits
        else:
            model.set_adapter(name)
            alone = model(input_ids=ids[i : i + 1]).logits
        torch.testing.assert_close(mixed[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("to", ["lora", "merged"])
def test_exported(to, tmp_path):
    base = base_of("gpt2")
    base.save_pretrained(tmp_path / "base")
    model = put(base, method="lora", r=2, target_modules=["c_attn.key", "c_attn.value", "c_proj"])
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    told = analyze(tmp_path / "adapter")["layers"]
    assert {"transformer.h.0.attn.c_attn.key", "transformer.h.1.attn.c_attn.value"} <= set(told)
    export(tmp_path / "adapter", tmp_path / "out", to=to)
    inputs = ARCHITECTURES["gpt2"].inputs()
    if to == "lora":
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA"
        assert 4 in {config["r"], *config["rank_pattern"].values()}
        read = PeftModel.from_pretrained(base_of("gpt2"), tmp_path / "out").eval()
    else:
        read = type(base).from_pretrained(tmp_path / "out").eval()
        places = shared(Checkpoint(str(tmp_path / "base")), Checkpoint(str(tmp_path / "out")), r"c_attn\.(key|query)$")
        moved = {
            p.name: float((p.read(places.tuned).dense() - p.read(places.base).dense()).norm()) for p in places.places
        }
        assert {name.rpartition(".")[2] for name, size in moved.items() if size > 0} == {"key"}
        assert len(moved) == 4
    torch.testing.assert_close(read(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("quantise", BITSANDBYTES)
def test_on_a_quantised_fused_weight_a_slice_trains_and_refuses_to_merge(quantise):
    """Columns that share their codes' scales with others cannot be written alone; nothing is touched."""
    torch.manual_seed(0)
    base, inputs = base_of("falcon"), ARCHITECTURES["falcon"].inputs()
    for name in [n for n, _ in base.named_modules() if n.endswith("query_key_value")]:
        base.set_submodule(name, quantise(base.get_submodule(name)))
    base.requires_grad_(False)
    plain = base(**inputs).logits
    model = get_peft_model(base, SubspaceConfig(method="lora", r=2, target_modules=["query_key_value.key"])).eval()
    torch.testing.assert_close(model(**inputs).logits, plain, atol=1e-3, rtol=1e-3)  # 8 bits multiply in half precision
    model(**inputs).logits.square().mean().backward()
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert any(p.grad.abs().sum() > 0 for p in trained.values())
    with torch.no_grad():
        for p in trained.values():
            p.add_(torch.randn_like(p), alpha=0.1)
    moved = model(**inputs).logits
    assert not torch.allclose(moved, plain, atol=1e-4)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(Unsupported, match="columns of a quantised weight"):
            merge()
        assert torch.equal(model(**inputs).logits, moved)
