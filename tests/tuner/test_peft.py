"""What people do with PEFT works: injecting, merging, disabling, several adapters, loading by transformers itself."""

import copy
import json
import pickle
from functools import cache

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel, get_peft_model
from torch import nn

import subspace_tuning
from cases import CASES, each
from models import ALL, TEXT, batch, bert, gpt2, llama
from subspace_tuning import IA3, SSB, SSL, BitFit, FLoRA, LoRA, SAMParser, SubspaceConfig, TriLoRA
from subspace_tuning.testing.cases import Case, adapter_parameters
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer


def peft(method, make=bert, **values):
    return get_peft_model(make(), SubspaceConfig(method=method, init_weights=False, **values)).eval()


@cache
def frozen_bert(layers):
    return bert(num_hidden_layers=layers)


def base_of(case):
    """The same base model anew: of one layer, of two where layers train parameters together."""
    return copy.deepcopy(frozen_bert(2 if case.method.shared else 1))


def logits(model, inputs, **how):
    with torch.no_grad():
        return model(**inputs, **how).logits


def tuned_names(model):
    return sorted(name for name, module in model.named_modules() if isinstance(module, SubspaceLayer))


@each(case=CASES)
def test_methods_come_as_objects_names_and_lists(case):
    data = json.loads(json.dumps(case.config().to_dict()["method"]))
    assert SubspaceConfig(method=data, mpc=case.mpc).resolved() == case.resolved


def test_a_name_takes_the_methods_fields_as_keywords():
    assert SubspaceConfig(method="lora", r=4, alpha=2.0).method == LoRA(r=4, alpha=2.0)
    assert SubspaceConfig(method="ssb|flora", r=4).method == SSB() | FLoRA(r=4)
    assert SubspaceConfig().method == SSB()
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        SubspaceConfig(method="lora", alhpa=2)
    with pytest.raises(ValueError, match="along with its name"):
        SubspaceConfig(method=LoRA(), r=4)


def test_auto_class_opens_a_folder(tmp_path):
    base = bert()
    base.save_pretrained(tmp_path / "base")
    model, inputs = get_peft_model(base, SubspaceConfig(method="lora", task_type="SEQ_CLS")).eval(), batch()
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    for p in adapter_parameters(model).values():
        nn.init.normal_(p)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@each(make=ALL)
@each(method=[SSB(), LoRA(r=2), SAMParser(), SSB() | LoRA(r=2)])
def test_merging_keeps_every_architectures_output(method, make):
    inputs, plain = batch(make), make()
    kinds = {name: type(module) for name, module in plain.named_modules()}
    model = get_peft_model(plain, SubspaceConfig(method=method, init_weights=False)).eval()
    want = logits(model, inputs)
    with model.disable_adapter():
        without = logits(model, inputs)
    model.merge_adapter()
    assert relative(logits(model, inputs), want) < 1e-5
    model.unmerge_adapter()
    assert torch.equal(logits(model, inputs), want)
    merged = model.merge_and_unload(safe_merge=True)
    assert {name: type(module) for name, module in merged.named_modules()} == kinds
    assert relative(logits(merged, inputs), want) < 1e-5
    assert relative(logits(merged, inputs), without) > 1e-5


@each(case=CASES)
def test_disabling_gives_the_base_model_back(case):
    base, inputs = base_of(case), batch()
    want = logits(base, inputs)
    model = get_peft_model(base, case.config(init_weights=False)).eval()
    tuned = logits(model, inputs)
    assert relative(tuned, want) > 1e-6
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), want)
    assert torch.equal(logits(model, inputs), tuned)
    assert torch.equal(logits(model.unload(), inputs), want)


def test_disabling_while_merged_gives_the_base_model_back():
    base, inputs = bert(), batch()
    want = logits(base, inputs)
    model = get_peft_model(base, SubspaceConfig(method=SSB() | BitFit(), init_weights=False)).eval()
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), want)


@each(broken=[float("nan"), float("inf")], method=[LoRA(r=2), SSB(), BitFit()])
def test_safe_merge_finds_broken_values_and_touches_nothing(method, broken):
    model = peft(method)
    *_, last = adapter_parameters(model).values()
    with torch.no_grad():
        last.view(-1)[0] = broken
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="NaN"):
            merge(safe_merge=True)
        assert not any(layer.merged for layer in model.modules() if isinstance(layer, SubspaceLayer))
        for k, v in model.state_dict().items():
            torch.testing.assert_close(v, before[k], rtol=0, atol=0, equal_nan=True)


def test_a_merge_that_fails_keeps_what_was_merged_before():
    model, data = peft(SSB(), target_modules=["query"]), batch()
    model.add_adapter("broken", SubspaceConfig(method="lora", r=2))
    model.merge_adapter(["default"])
    want = logits(model, data)
    *_, last = adapter_parameters(model, "broken").values()
    with torch.no_grad():
        last.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        model.merge_adapter(["broken"], safe_merge=True)
    assert torch.equal(logits(model, data), want)


def three_adapters(inputs):
    """A model with SSB, LoRA and BitFit, and the logits of each alone."""
    model = get_peft_model(bert(), SubspaceConfig(method=SSB(), init_weights=False), adapter_name="a").eval()
    model.add_adapter("b", SubspaceConfig(method=LoRA(r=2), init_weights=False))
    model.add_adapter("c", SubspaceConfig(method=BitFit(), init_weights=False))
    alone = {}
    for name in "abc":
        model.set_adapter(name)
        alone[name] = logits(model, inputs)
    return model, alone


def test_adapters_of_different_methods_switch_and_delete():
    inputs = batch()
    model, alone = three_adapters(inputs)
    assert relative(alone["a"], alone["b"]) > 1e-6
    for name in "bcab":
        model.set_adapter(name)
        assert torch.equal(logits(model, inputs), alone[name])
        assert {k for k, p in model.named_parameters() if p.requires_grad} == set(adapter_parameters(model, name))
    model.delete_adapter("a")
    assert sorted(model.peft_config) == ["b", "c"]
    model.set_adapter("c")
    assert torch.equal(logits(model, inputs), alone["c"])
    assert not adapter_parameters(model, "a")


def test_two_active_adapters_are_their_composition():
    inputs, where = batch(), {"target_modules": ["query", "value"], "init_weights": False}
    base = bert()
    weights = copy.deepcopy(base.state_dict())
    model = get_peft_model(base, SubspaceConfig(method=SSB(), **where), adapter_name="a").eval()
    model.add_adapter("b", SubspaceConfig(method=LoRA(r=2), **where))
    model.base_model.set_adapter(["a", "b"])
    base = bert()
    base.load_state_dict(weights)
    pair = get_peft_model(base, SubspaceConfig(method=SSB() | LoRA(r=2), **where)).eval()
    for i, name in enumerate("ab"):
        for key, p in adapter_parameters(model, name).items():
            head, _, last = key.rpartition(f".{name}.")
            pair.get_parameter(f"{head}.default.{i}_{last}").data.copy_(p)
    assert torch.equal(logits(model, inputs), logits(pair, inputs))
    assert {k for k, p in model.named_parameters() if p.requires_grad} == {
        *adapter_parameters(model, "a"),
        *adapter_parameters(model, "b"),
    }


def test_merging_adapters_one_by_one_is_merging_both():
    """The second one may touch a bias or a weight that the first one left alone; all come back bit for bit."""
    inputs = batch()
    for order in ("ac", "ca", "ab", "bc"):
        model, _ = three_adapters(inputs)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model.base_model.set_adapter(list(order))
        want = logits(model, inputs)
        model.merge_adapter([order[0]])
        model.merge_adapter([order[1]])
        assert relative(logits(model, inputs), want) < 1e-5
        model.unmerge_adapter()
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), order


def test_transformers_adds_switches_and_deletes_adapters(tmp_path):
    model, inputs = bert(), batch()
    base, weights = logits(model, inputs), copy.deepcopy(model.state_dict())
    model.add_adapter(SubspaceConfig(method=SSB(), init_weights=False), adapter_name="a")
    model.add_adapter(SubspaceConfig(method=LoRA(r=2), init_weights=False), adapter_name="b")
    model.eval()
    of_b = logits(model, inputs)
    model.set_adapter("a")
    of_a = logits(model, inputs)
    assert relative(of_a, base) > 1e-6
    assert relative(of_a, of_b) > 1e-6
    model.disable_adapters()
    assert torch.equal(logits(model, inputs), base)
    model.enable_adapters()
    assert torch.equal(logits(model, inputs), of_a)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if "adapter" in p.name) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    model.delete_adapter("a")
    model.set_adapter("b")
    assert torch.equal(logits(model, inputs), of_b)
    fresh = bert()
    fresh.load_state_dict(weights)
    fresh.load_adapter(str(tmp_path), adapter_name="again")
    assert torch.equal(logits(fresh, inputs), of_a)
    by_peft = bert()
    by_peft.load_state_dict(weights)
    assert torch.equal(logits(PeftModel.from_pretrained(by_peft, tmp_path), inputs), of_a)


@each(case=CASES)
def test_transformers_loads_what_peft_saved(case, tmp_path):
    inputs = batch()
    model = get_peft_model(base_of(case), case.config(init_weights=False)).eval()
    model.save_pretrained(tmp_path)
    fresh = base_of(case)
    fresh.load_adapter(str(tmp_path))
    assert torch.equal(logits(fresh, inputs), logits(model, inputs))


@each(case=CASES)
def test_copies_stand_on_their_own(case):
    model, inputs = peft(case.method, lambda: base_of(case), mpc=case.mpc), batch()
    want = logits(model, inputs)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(twin, inputs), want)
        with torch.no_grad():
            for p in adapter_parameters(twin).values():
                p.add_(0.5 * torch.randn_like(p))  # alike in all entries, norms would take it away
        assert relative(logits(twin, inputs), want) > 1e-6
        assert torch.equal(logits(model, inputs), want)
        twin.load_state_dict(model.state_dict())
        assert torch.equal(logits(twin, inputs), want)
        twin.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
        assert torch.equal(logits(twin, inputs), want)


def test_parameters_replaced_after_a_forward_are_the_ones_used():
    model, inputs = peft(LoRA(r=2)), batch()
    want = logits(model, inputs)
    layer = next(m for m in model.modules() if isinstance(m, SubspaceLayer))
    layer.subspace_params["default"]["B"] = nn.Parameter(torch.ones_like(layer.subspace_params["default"]["B"]))
    assert relative(logits(model, inputs), want) > 1e-6
    assert logits(model.double(), inputs).dtype == torch.float64


@each(method=[SSB(), LoRA(r=2), SAMParser(), BitFit(), SSB() | LoRA(r=2)])
def test_adapter_names_mix_a_batch(method):
    inputs = batch(size=5)
    model = get_peft_model(bert(), SubspaceConfig(method=method, init_weights=False), adapter_name="a").eval()
    model.add_adapter("b", SubspaceConfig(method=TriLoRA(r=2), init_weights=False))
    names = ["b", "__base__", "a", "b", "a"]
    got = logits(model, inputs, adapter_names=names)
    for name in "ab":
        model.set_adapter(name)
        alone = logits(model, inputs)
        torch.testing.assert_close(*(t[[n == name for n in names]] for t in (got, alone)))
    with model.disable_adapter():
        torch.testing.assert_close(got[1], logits(model, inputs)[1])
    with pytest.raises(ValueError, match="unknown adapters"):
        logits(model, inputs, adapter_names=["a", "b", "x", "a", "a"])
    with pytest.raises(ValueError, match="one adapter a sample"):
        logits(model, inputs, adapter_names=["a", "b"])
    with pytest.raises(ValueError, match="inference only"):
        logits(model.train(), inputs, adapter_names=names)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="unmerge"):
        logits(model, inputs, adapter_names=names)


@each(make=[llama, gpt2])
def test_generation_works_merged_and_not(make):
    model, ids = peft(SSB() | LoRA(r=2), make), batch(make)["input_ids"]
    how = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    want = model.generate(input_ids=ids, **how)
    assert want.shape == (3, 11)
    assert torch.equal(model.merge_and_unload().generate(input_ids=ids, **how), want)


@each(make=TEXT)
def test_mixed_adapters_of_peft_live_beside_other_models(make):
    """Our type does not disturb PEFT's own."""
    import peft as hf_peft

    model = get_peft_model(make(), hf_peft.LoraConfig(r=2, target_modules="all-linear"))
    assert model.peft_config["default"].peft_type == "LORA"
    assert SubspaceConfig().peft_type.value == "SUBSPACE"


def test_what_is_not_there_says_so():
    model = peft(LoRA(r=2))
    with pytest.raises(NotImplementedError, match="set_adapter"):
        model.add_weighted_adapter(["default"], [1.0], "sum")


PUBLIC = """IA3 METHODS SSB SSL BitFit Composition FLoRA LoRA Method SAMParser StepCallback SubspaceConfig SubspaceModel
    TriLoRA build calibrate penalty register set_strength set_total_steps"""


def test_public_names():
    assert set(PUBLIC.split()) <= set(subspace_tuning.__all__)
    assert all(hasattr(subspace_tuning, name) for name in subspace_tuning.__all__)
    for method in (SSL, SSB, IA3, SAMParser, BitFit, LoRA, TriLoRA, FLoRA):
        assert Case(method()).config().peft_type.value == "SUBSPACE"
