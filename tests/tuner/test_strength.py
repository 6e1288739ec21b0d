"""The strength of adapters on whole models: one by one, in mixed batches, in the words of PEFT and diffusers."""

import copy
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model

from cases import each
from models import batch, bert, gpt2
from subspace_tuning import SSB, SubspaceConfig, set_strength
from subspace_tuning.methods import IA3, MAM, OFT, BitFit, DoRA, Houlsby, LoRA, Parallel
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.model import layers

METHODS_HERE = [SSB(), LoRA(r=2), DoRA(r=2), OFT(b=4), BitFit(), Houlsby(r=2), Parallel(r=2), SSB() | LoRA(r=2)]


def tuned(*methods, make=bert):
    model = get_peft_model(make(), SubspaceConfig(method=methods[0], init_weights=False), adapter_name="a0")
    for i, method in enumerate(methods[1:], 1):
        model.add_adapter(f"a{i}", SubspaceConfig(method=method, init_weights=False))
    return model.eval()


@each(method=METHODS_HERE)
def test_a_whole_model_goes_from_its_base_to_the_adapter(method):
    model, inputs = tuned(method), batch(bert)
    with torch.no_grad():
        whole = model(**inputs).logits
        with model.disable_adapter():
            base = model(**inputs).logits
        set_strength(model, 0)
        assert torch.equal(model(**inputs).logits, base)
        set_strength(model, 0.5)
        half = model(**inputs).logits
        set_strength(model, 1)
        assert torch.equal(model(**inputs).logits, whole)
    assert not torch.allclose(half, base)
    assert not torch.allclose(half, whole)


@each(make=[bert, gpt2])
def test_rows_of_a_mixed_batch_go_by_their_adapters_at_their_strengths(make):
    methods = [SSB(), LoRA(r=2), LoRA(r=2), LoRA(r=2), IA3(), Houlsby(r=2), DoRA(r=2), LoRA(r=2)]
    model = tuned(*methods, make=make)
    for i in range(len(methods)):
        set_strength(model, (0.5, 0.0, 1.5)[i % 3], f"a{i}")
    names = [f"a{i}" for i in range(len(methods))] + ["__base__"]
    inputs = batch(make, size=len(names))
    with torch.no_grad():
        mixed = model(**inputs, adapter_names=names).logits
        for i, name in enumerate(names[:-1]):
            model.set_adapter(name)
            alone = model(**{k: v[i : i + 1] for k, v in inputs.items()}).logits
            assert relative(mixed[i : i + 1], alone) < 1e-5


def test_without_a_name_it_is_that_of_the_active_adapters():
    model = tuned(SSB(), LoRA(r=2))
    set_strength(model, 0.5)
    assert {layer.strengths.of("a0") for layer in layers(model) if "a0" in layer.methods} == {0.5}
    assert {layer.strengths.of("a1") for layer in layers(model)} == {1.0}


def test_a_copy_has_the_strength_too():
    model, inputs = tuned(SSB()), batch(bert)
    set_strength(model, 0.5)
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, model(**inputs).logits)


@each(t=[float("nan"), float("inf"), "half", None, True])
def test_what_is_no_strength_changes_nothing(t):
    model, inputs = tuned(SSB()), batch(bert)
    want = model(**inputs).logits
    with pytest.raises(ValueError, match="a strength is a number"):
        set_strength(model, t)
    for layer in layers(model):
        with pytest.raises(ValueError, match="a strength is a number"):
            layer.scale_layer(t)
    assert torch.equal(model(**inputs).logits, want)


def test_unknown_adapters_and_plain_models_are_told():
    with pytest.raises(ValueError, match=r"there is no adapter 'b' on the model; it has \['a0'\]"):
        set_strength(tuned(SSB()), 0.5, "b")
    with pytest.raises(ValueError, match="no adapter of this package is active"):
        set_strength(bert(), 0.5)


def test_what_sits_on_blocks_has_no_strength():
    model = tuned(MAM(tokens=2, r=2))
    with pytest.raises(ValueError, match="mam sits on whole blocks"):
        set_strength(model, 0.5)
    layer = next(iter(layers(model)))
    for turn in (lambda: layer.set_scale("a0", 0.5), lambda: layer.scale_layer(0.5)):
        with pytest.raises(ValueError, match="mam sits on whole blocks"):
            turn()
    assert layer.strengths.of("a0") == 1


def test_a_checkpoint_holds_the_adapter_and_no_strength(tmp_path):
    model, inputs = tuned(SSB()), batch(bert)
    whole = model(**inputs).logits
    set_strength(model, 0.5)
    with pytest.warns(UserWarning, match="'a0' is at work at the strength 0.5, and is saved as it was trained"):
        model.save_pretrained(tmp_path)
    with model.disable_adapter():
        torch.manual_seed(0)
        again = PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path / "a0", adapter_name="a0")
    assert relative(again.eval()(**inputs).logits, whole) < 1e-6
    set_strength(model, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path)


def test_merged_adapters_follow_and_unloading_writes_phi_t():
    model, inputs = tuned(SSB(), LoRA(r=2)), batch(bert)
    set_strength(model, 0.3)
    want = model(**inputs).logits
    plain = copy.deepcopy(model).merge_and_unload()
    assert relative(plain(**inputs).logits, want) < 1e-5


class TestDiffusersWords:
    """What its set_adapters and cross_attention_kwargs do to every layer (diffusers.utils.peft_utils)."""

    def test_set_adapters_with_weights(self):
        model, inputs = tuned(SSB(), LoRA(r=2)), batch(bert)
        for layer in layers(model):
            for name, weight in (("a0", 0.7), ("a1", 0.2)):
                layer.set_scale(name, weight)
            layer.set_adapter(["a0", "a1"])
        got = model(**inputs).logits
        other = copy.deepcopy(model)
        for layer in layers(other):
            layer.set_scale("a0", 1.0)
            layer.set_scale("a1", 1.0)
        set_strength(other, 0.7, "a0")
        set_strength(other, 0.2, "a1")
        assert torch.equal(got, other(**inputs).logits)

    def test_a_scale_holds_for_one_call_and_leaves_nothing(self):
        model, inputs = tuned(SSB()), batch(bert)
        set_strength(model, 0.7)
        before = model(**inputs).logits
        for scale in (0.3, 0.1, 0.0):
            for layer in layers(model):
                layer.scale_layer(scale)
            within = model(**inputs).logits
            assert not torch.equal(within, before)
            for layer in layers(model):
                layer.unscale_layer(scale)
            assert torch.equal(model(**inputs).logits, before)
        for layer in layers(model):
            layer.unscale_layer()
        set_strength(other := copy.deepcopy(model), 1)
        assert torch.equal(model(**inputs).logits, other(**inputs).logits)

    def test_a_scale_for_each_call_keeps_few_expressions(self):
        model = tuned(SSB())
        layer = next(iter(layers(model)))
        for i in range(100):
            layer.set_scale("a0", 1 + i / 100)
        assert len(layer._tuned) <= 20

    def test_adapters_that_a_layer_lacks_are_no_matter(self):
        next(iter(layers(tuned(SSB())))).set_scale("elsewhere", 0.5)
