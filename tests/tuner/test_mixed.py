"""Laws of a batch whose rows go by different adapters: each row as it would go alone, gradients too."""

import copy

import pytest
import torch
from peft import get_peft_model

from cases import each
from models import batch, bert, gpt2, llama
from subspace_tuning import METHODS, SSB, SubspaceConfig
from subspace_tuning.method.registry import build
from subspace_tuning.methods import IA3, BitFit, DoRA, Houlsby, LoRA, SAMParser, VeRA
from subspace_tuning.tuner.model import layers
from subspace_tuning.tuner.routed import routed
from subspace_tuning.tuner.shared import HOME

METHODS_HERE = [
    SSB(),
    IA3(),
    BitFit(),
    LoRA(r=2),
    LoRA(r=2, alpha=3.0),
    DoRA(r=2),
    VeRA(r=4),
    SAMParser(),
    Houlsby(r=2),
    SSB() | LoRA(r=2),
    LoRA(r=2) | SSB(),
]


def model_with(methods, make=bert):
    model = make()
    for i, method in enumerate(methods):
        config = SubspaceConfig(method=method, init_weights=False)
        model = get_peft_model(model, config, adapter_name="a0") if i == 0 else model
        if i:
            model.add_adapter(f"a{i}", config)
    return model.eval()


def alone(model, inputs, names):
    rows = []
    for i, name in enumerate(names):
        one = {k: v[i : i + 1] for k, v in inputs.items()}
        if name == "__base__":
            with model.disable_adapter():
                rows.append(model(**one).logits)
        else:
            model.set_adapter(name)
            rows.append(model(**one).logits)
    return torch.cat(rows)


@each(make=[bert, llama, gpt2])
def test_every_family_side_by_side_in_any_order(make):
    methods = [m for m in METHODS_HERE if make is not llama or m.sits_on != "bias"]  # it has none
    model = model_with(methods, make)
    names = [f"a{i}" for i in range(len(methods))] + ["__base__", "a4", "a3", "a0", "__base__"]
    names = [names[i] for i in torch.randperm(len(names)).tolist()]
    inputs = batch(make, size=len(names))
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            got = model(**inputs, adapter_names=names).logits
        torch.testing.assert_close(got, alone(model, inputs, names), rtol=1e-4, atol=1e-5)


@each(name=sorted(n for n, m in METHODS.items() if m.sits_on in ("weight", "output", "bias")))
def test_many_adapters_of_one_method_are_as_each_alone(name):
    """Stacked, where it can be: as many as there are, with two rows each, and one with a row of its own.

    On one layer where layers share nothing.
    """
    fields = {f: 2 for f in ("r", "init_r") if f in getattr(METHODS[name], "__dataclass_fields__", {})}
    method = build(name, fields)
    try:
        model = model_with([method] * 4, lambda: bert(num_hidden_layers=2 if method.shared else 1))
    except ValueError as error:
        pytest.skip(str(error))
    names = ["a2", "a0", "a1", "a0", "a3", "a2", "a1"]
    inputs = batch(size=len(names))
    with torch.no_grad():
        got = model(**inputs, adapter_names=names).logits
        torch.testing.assert_close(got, alone(model, inputs, names), rtol=1e-4, atol=1e-5)


def ways_of_half_precision(name):
    """A layer with four adapters of one method on a half-precision base, and the same in double precision."""
    fields = {f: 2 for f in ("r", "init_r") if f in getattr(METHODS[name], "__dataclass_fields__", {})}
    config = SubspaceConfig(method=build(name, fields), target_modules=["0"])
    base = torch.nn.Sequential(torch.nn.Linear(48, 48)).to(torch.bfloat16).double()
    exact = get_peft_model(base, config, adapter_name="a0", autocast_adapter_dtype=False).eval()
    for other in ("a1", "a2", "a3"):
        exact.add_adapter(other, config, autocast_adapter_dtype=False)
    rough = copy.deepcopy(exact).float()
    rough.base_model.model[0].base_layer.to(torch.bfloat16)
    return rough, exact


@each(
    name=sorted(n for n, m in METHODS.items() if m.sits_on in ("weight", "output", "bias") and not m.calibration),
    several=[False, True],
)
@torch.no_grad()
def test_small_changes_count_in_half_precision(name, several):
    """All parameters moved by 0.003 move a mixed batch as they move each adapter's own, stacked or not."""
    rough, exact = ways_of_half_precision(name)
    names = [f"a{i % 4 if several else i % 2}" for i in range(32)]
    x = torch.randn(32, 5, 48, dtype=torch.bfloat16)

    def outputs():
        with routed(rough, names):
            mixed = rough(x)
        return [mixed.double(), one_by_one(rough, names, x).double(), one_by_one(exact, names, x.double())]

    before = outputs()
    for model in (rough, exact):
        for key, p in model.named_parameters():
            if "subspace_params" in key or HOME in key:
                p.add_(0.003)
    mixed, alone, exactly = (after - start for after, start in zip(outputs(), before, strict=True))
    noise = torch.finfo(torch.bfloat16).eps / 6**0.5 * before[-1].norm() / exactly.norm() / exactly.numel() ** 0.5
    gains = [(dy * exactly).sum() / exactly.square().sum() for dy in (mixed, alone)]
    assert abs(gains[0] - gains[1]) < 0.1 + 4 * noise


def one_by_one(model, names, x):
    rows = []
    for name, row in zip(names, x.unsqueeze(1), strict=True):
        model.set_adapter(name)
        rows.append(model(row))
    return torch.cat(rows)


@each(method=METHODS_HERE)
def test_gradients_of_a_mixed_batch_are_each_adapters_own(method):
    model = model_with([method, LoRA(r=2)])
    inputs = batch(size=5)
    inputs.pop("labels")
    names = ["a0", "a0", "a1", "a1", "a1"]
    trained = {k: p for k, p in model.named_parameters() if "subspace_params" in k}
    for p in trained.values():
        p.requires_grad_(True)

    def gradients(loss):
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        return {k: g for k, g in zip(trained, found, strict=True) if g is not None}

    with routed(model, names):
        joint = gradients(model(**inputs).logits.square().sum())
    apart = {}
    for name in ("a0", "a1"):
        model.set_adapter(name)
        for p in trained.values():
            p.requires_grad_(True)
        mine = [n == name for n in names]
        apart |= gradients(model(**{k: v[mine] for k, v in inputs.items()}).logits.square().sum())
    assert joint.keys() == apart.keys()
    for key, gradient in apart.items():
        torch.testing.assert_close(joint[key], gradient, rtol=1e-3, atol=1e-5)


@each(size=[2, 7])
def test_the_frozen_weight_is_met_once(size):
    """However many adapters share a batch, the base layer computes one product."""
    model = model_with([SSB(), LoRA(r=2), IA3(), LoRA(r=2), LoRA(r=2), BitFit(), SSB()][:size])
    calls = []
    for layer in layers(model):
        layer.base_layer.register_forward_hook(lambda *_: calls.append(1))
    names = [f"a{i}" for i in range(size)]
    with torch.no_grad():
        model(**batch(size=size), adapter_names=names)
    assert len(calls) == len(list(layers(model)))


def test_every_adapter_has_its_own_head():
    model = get_peft_model(bert(), SubspaceConfig(method=SSB(), task_type="SEQ_CLS"), adapter_name="a0")
    model.add_adapter("a1", SubspaceConfig(method=LoRA(r=2), task_type="SEQ_CLS"))
    with torch.no_grad():
        for i, name in enumerate(("a0", "a1")):
            model.base_model.model.classifier.modules_to_save[name].bias.fill_(1.0 + i)
    inputs, names = batch(size=4), ["a1", "__base__", "a0", "a1"]
    got = model.eval()(**inputs, adapter_names=names).logits
    torch.testing.assert_close(got, alone(model, inputs, names))
