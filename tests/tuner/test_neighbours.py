"""Several adapters on one model: merged, added, saved and deleted beside each other, whatever they are called."""

import gc
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from cases import ON_LAYERS, each
from models import batch, bert, llama, t5
from subspace_tuning import METHODS, SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.algebra import Expr
from subspace_tuning.testing.cases import Case, adapter_parameters, sits
from subspace_tuning.testing.kinds import KINDS
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer

MERGING = [name for name in ON_LAYERS if METHODS[name]().mergeable]


def small(name):
    return METHODS[name]().with_fields(r=2, b=2, init_r=2, directions=2).fitted(6, 4)


@pytest.fixture(scope="module")
def crowd():
    """One layer with every method that merges, each under its own name."""
    torch.manual_seed(0)
    layer = SubspaceLayer(nn.Linear(6, 4)).eval()
    for name in MERGING:
        layer.add(name, small(name), init_weights=False)
    return layer


def weight_and_bias(layer):
    return layer.weight.detach().clone(), layer.bias.detach().clone()


@each(first=MERGING)
@pytest.mark.filterwarnings("ignore:Already following adapters were merged")
def test_merging_one_after_the_other_is_merging_both_is_both_active(first, crowd):
    original, x = weight_and_bias(crowd), torch.randn(5, 6)
    for second in MERGING:
        if second == first:
            continue
        crowd.set_adapter([first, second])
        with torch.no_grad():
            active = crowd(x)
        crowd.merge(adapter_names=[first, second])
        both, merged = weight_and_bias(crowd), crowd(x)
        crowd.unmerge()
        crowd.merge(adapter_names=[first])
        crowd.merge(adapter_names=[second])
        assert crowd.merged_adapters == [first, second]
        assert all(map(torch.equal, weight_and_bias(crowd), both)), second
        assert relative(merged, active) < 1e-5, second
        crowd.unmerge()
        assert all(map(torch.equal, weight_and_bias(crowd), original)), second


@each(name=ON_LAYERS)
def test_adding_beside_a_merged_adapter_is_adding_before(name):
    def layer(merged):
        torch.manual_seed(1)
        made = SubspaceLayer(nn.Linear(6, 4))
        made.add("other", SSB(), init_weights=False)
        if merged:
            made.merge(adapter_names=["other"])
        torch.manual_seed(2)
        made.add("own", small(name))
        return made

    late, early = layer(merged=True), layer(merged=False)
    assert late.merged_adapters == ["other"]
    for a, b in zip(late.held("own"), early.held("own"), strict=True):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}
    early.merge(adapter_names=["other"])
    assert torch.equal(late.weight, early.weight)
    late.unmerge()
    early.unmerge()
    assert all(map(torch.equal, weight_and_bias(late), weight_and_bias(early)))


@each(name=["query", "attention", "encoder", "layer", "A", "B", "subspace_params", "bert", "model", "weight"])
def test_an_adapter_called_like_a_part_of_the_model_is_saved_and_its_neighbours_too(name, tmp_path):
    base = bert()
    weights = {k: v.clone() for k, v in base.state_dict().items()}
    config = {"init_weights": False, "task_type": "SEQ_CLS"}
    model = get_peft_model(base, SubspaceConfig(method=LoRA(r=2), **config)).eval()
    model.add_adapter(name, SubspaceConfig(method=SSB(), **config))
    model.save_pretrained(tmp_path)
    inputs = batch()
    for adapter, path in (("default", tmp_path), (name, tmp_path / name)):
        model.set_adapter(adapter)
        fresh = bert()
        fresh.load_state_dict(weights)
        again = PeftModel.from_pretrained(fresh, path, adapter_name="again")
        assert torch.equal(again(**inputs).logits, model(**inputs).logits), adapter
        mine, theirs = adapter_parameters(again, "again"), adapter_parameters(model, adapter)
        assert len(mine) == len([k for k in theirs if f".subspace_params.{adapter}." in k])


@each(name=["", "a.b", "__base__", "keys", "training"])
def test_names_that_cannot_be_are_refused_in_one_sentence(name):
    model = get_peft_model(bert(), SubspaceConfig(method="ssb"))
    with pytest.raises(ValueError, match="an adapter cannot be called"):
        model.add_adapter(name, SubspaceConfig(method="lora"))
    assert sorted(model.peft_config) == ["default"]


def alike():
    """Pairs of methods with tensors of the same names and shapes on a square weight: either may pass for the other."""
    held = {}
    for name in ON_LAYERS:
        method = small(name)
        shapes = {k: s.shape for k, s in (method.parameters(32, 32) | method.stored(32, 32)).items()}
        held.setdefault(tuple(sorted(shapes.items())), []).append(method)
    return [(a, b) for group in held.values() for a in group for b in group if a is not b]


OTHERS = [
    (SSB(), LoRA(r=2)),
    (LoRA(r=2) | SSB(), LoRA(r=2)),
    (LoRA(r=4), LoRA(r=2)),
    (LoRA(r=4) | BitFit(), LoRA(r=2) | BitFit()),
    (LoRA(r=2, alpha=64), LoRA(r=2)),
]


def refused_whole(model, folder, **config):
    get_peft_model(bert(), SubspaceConfig(init_weights=False, target_modules=["query"], **config)).save_pretrained(
        folder
    )
    before = {k: p.clone() for k, p in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not hold the adapter 'default'"):
        model.load_adapter(folder, adapter_name="default")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(p, after[k]) for k, p in before.items())


@each(pair=[*OTHERS, *alike()])
def test_another_method_under_a_name_that_is_taken_is_refused(pair, tmp_path):
    other, method = pair
    config = SubspaceConfig(method=method, init_weights=False, target_modules=["query"])
    refused_whole(get_peft_model(bert(), config), tmp_path, method=other)


def test_another_pattern_under_a_name_that_is_taken_is_refused(tmp_path):
    config = SubspaceConfig(method=LoRA(r=2), init_weights=False, target_modules=["query"])
    pattern = {"alpha_pattern": {r"layer\.0\..*": 64}}
    refused_whole(get_peft_model(bert(), config), tmp_path, method=LoRA(r=2), **pattern)


def test_a_name_that_is_taken_by_the_same_method_takes_other_values(tmp_path):
    config = {"method": LoRA(r=2), "init_weights": False}
    other = get_peft_model(bert(), SubspaceConfig(**config))
    other.save_pretrained(tmp_path)
    model = get_peft_model(bert(), SubspaceConfig(**config))
    model.load_adapter(tmp_path, adapter_name="default")
    want = adapter_parameters(other)
    assert all(torch.equal(p, want[k]) for k, p in adapter_parameters(model).items())


WHERE = {"a": ["query"], "b": ["query", "key"], "c": ["value"]}


def scattered():
    """Three adapters on modules that only some of them share."""
    model = get_peft_model(bert(), SubspaceConfig(method=LoRA(r=2), target_modules=WHERE["a"], init_weights=False), "a")
    for name in "bc":
        model.add_adapter(name, SubspaceConfig(method=SSB(), target_modules=WHERE[name], init_weights=False))
    return model.eval()


def active_in(model):
    return {tuple(m.active_adapters) for m in model.modules() if isinstance(m, SubspaceLayer)}


@each(gone=list("abc"), active=list("abc"))
def test_deleting_leaves_one_choice_for_all_layers(gone, active):
    model, inputs = scattered(), batch()
    alone = {}
    for name in "abc":
        model.set_adapter(name)
        alone[name] = model(**inputs).logits
        assert active_in(model) == {(name,)}
        assert {k for k, p in model.named_parameters() if p.requires_grad} == set(adapter_parameters(model, name))
    model.set_adapter(active)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if gone == active else "error")
        model.delete_adapter(gone)
    left = active if gone != active else min(set("abc") - {gone})
    assert model.active_adapter == left
    assert model.active_adapters == [left]
    assert active_in(model) == {(left,)}
    assert torch.equal(model(**inputs).logits, alone[left])
    assert {k for k, p in model.named_parameters() if p.requires_grad} == set(adapter_parameters(model, left))


def test_deleting_one_of_two_active_adapters_keeps_the_other():
    model, inputs = scattered(), batch()
    model.set_adapter("c")
    want = model(**inputs).logits
    model.base_model.set_adapter(["a", "c"])
    model.delete_adapter("a")
    assert torch.equal(model(**inputs).logits, want)


def test_deleting_an_idle_adapter_leaves_a_frozen_one_frozen():
    model = scattered()
    model.set_adapter("a", inference_mode=True)
    model.delete_adapter("b")
    assert not any(p.requires_grad for p in model.parameters())
    assert active_in(model) == {("a",)}


def test_adapters_of_all_families_come_and_go_and_leave_nothing_behind():
    """64 of them at once; then one is added, switched to and deleted, 200 times."""
    torch.manual_seed(0)
    layer, x = SubspaceLayer(nn.Linear(6, 4)).eval(), torch.randn(2, 6)
    names = [f"{MERGING[i % len(MERGING)]}_{i}" for i in range(64)]
    for name in names:
        layer.add(name, small(name.rpartition("_")[0]), init_weights=False)
    alone = {}
    for name in names:
        layer.set_adapter(name)
        alone[name] = layer(x)
    layer.set_adapter(names)
    for name in reversed(names):
        layer.set_adapter(name)
        assert torch.equal(layer(x), alone[name]), name
    for name in names[1:]:
        layer.delete_adapter(name)
    before = held_in(layer)
    for i in range(200):
        layer.add("other", small(MERGING[i % len(MERGING)]))
        layer.set_adapter("other")
        layer.set_adapter(["other", names[0]])
        layer.set_adapter(names[0])
        layer.delete_adapter("other")
    gc.collect()
    assert held_in(layer) == before
    assert torch.equal(layer(x), alone[names[0]])


def held_in(layer):
    """What a layer keeps, and how many tensors and expressions there are at all."""
    gc.collect()
    kept = {k: len(v) for k, v in vars(layer).items() if isinstance(v, dict | list | set)}
    kinds = (torch.Tensor, Expr)
    return kept, sum(isinstance(thing, kinds) for thing in gc.get_objects())


def test_transformers_own_deleting_chooses_no_other_adapter():
    model, inputs = bert(), batch()
    want = model(**inputs).logits
    for name, targets in WHERE.items():
        config = SubspaceConfig(method=LoRA(r=2), target_modules=targets, init_weights=False)
        model.add_adapter(config, adapter_name=name)
    model.eval().set_adapter("b")
    of_b = model(**inputs).logits
    model.set_adapter("a")
    with pytest.warns(UserWarning, match="no adapter is active"):
        model.delete_adapter("a")
    assert torch.equal(model(**inputs).logits, want)
    model.set_adapter("b")
    assert torch.equal(model(**inputs).logits, of_b)


HOW = [
    {"num_beams": 3, "do_sample": False},
    {"num_beams": 2, "num_return_sequences": 2, "do_sample": False},
    {"num_return_sequences": 2, "do_sample": True, "top_k": 1},
]


@each(how=HOW, make=[llama, t5])
def test_generation_repeats_the_names_with_the_samples(how, make):
    config = {"target_modules": ["q_proj", "v_proj"] if make is llama else ["q", "v"], "init_weights": False}
    model = get_peft_model(make(), SubspaceConfig(method=SSB(), **config), "a").eval()
    model.add_adapter("b", SubspaceConfig(method=LoRA(r=2), **config))
    ids, names = batch(make)["input_ids"], ["b", "__base__", "a"]
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": 0, "return_dict_in_generate": True, **how}
    for where in ("arguments", "model"):
        if where == "model":
            model.generation_config.update(**{k: how.pop(k) for k in [*how] if k.startswith(("num_", "do_"))})
        got = model.generate(input_ids=ids, adapter_names=names, **how).sequences
        copies = len(got) // len(ids)
        for i, name in enumerate(names):
            if name != "__base__":
                model.set_adapter(name)
                alone = model.generate(input_ids=ids[i : i + 1], **how).sequences
            else:
                with model.disable_adapter():
                    alone = model.generate(input_ids=ids[i : i + 1], **how).sequences
            assert torch.equal(got[i * copies : (i + 1) * copies], alone)


@each(kind=KINDS)
def test_a_tuned_layer_shows_what_its_owner_reads(kind):
    plain = kind.layer()
    layer = SubspaceLayer(plain)
    layer.add("default", BitFit() if sits(Case(BitFit()), kind) else SSB())
    names = [name for name in vars(plain) if not name.startswith("_") and name not in vars(layer)]
    assert names
    for name in names:
        assert getattr(layer, name) is getattr(plain, name)
    for name in ("weight", "bias"):
        shown, own = getattr(layer, name, None), getattr(plain, name, None)
        assert shown is own or torch.equal(shown, own)  # a slice makes them anew at each reading
    assert not hasattr(layer, "no_such_name")
    assert not hasattr(layer, "_hf_hook")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = layer.no_such_name
