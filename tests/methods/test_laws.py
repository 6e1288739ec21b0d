"""The laws that every method obeys on every kind of base weight; compositions and constrained methods too."""

import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases import (
    KINDS,
    SINGLE,
    Case,
    adapter_parameters,
    each,
    held_by,
    inputs,
    relative,
    seated,
    sits,
    tuned,
    unseated,
    values_of,
)
from subspace_tuning import SSB, LoRA
from subspace_tuning.algebra import Weight
from subspace_tuning.method import Method, Params
from subspace_tuning.methods import DoRA
from subspace_tuning.theory import PATIENT, Search, project
from subspace_tuning.weights import Unsupported

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mul", "convolution_backward", "embedding_dense_backward", "sum"}


class BiggestProducts(TorchDispatchMode):
    """Records the sizes of what products compute while it is on."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            outs = out if isinstance(out, tuple | list) else (out,)
            self.sizes += [o.numel() for o in outs if isinstance(o, torch.Tensor)]
        return out


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same_state(model, before):
    after = model.state_dict()
    assert set(after) == set(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@seated
@each(dtype=[torch.float32, torch.bfloat16])
def test_identity_at_start(case, kind, dtype):
    model = tuned(case, kind, init_weights=True, dtype=dtype)
    x = inputs(kind, dtype=dtype)
    want = model.base_model.model.layer.base_layer(x)
    assert model(x).dtype == dtype
    assert relative(model(x), want) < {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]


@seated
@each(dtype=[torch.float32, torch.bfloat16])
def test_merged_equals_unmerged(case, kind, dtype):
    model = tuned(case, kind, dtype=dtype)
    x = inputs(kind, dtype=dtype)
    want, before = model(x), snapshot(model)
    if not case.resolved.mergeable:
        with pytest.raises(ValueError, match="not a map of the weight alone"):
            model.merge_adapter()
        assert_same_state(model, before)
        assert torch.equal(model(x), want)
        return
    model.merge_adapter()
    assert relative(model(x), want) < {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    assert relative(model(x), model.base_model.model.layer.base_layer(x)) == 0


@seated
def test_unmerge_restores_bit_for_bit(case, kind):
    model = tuned(case, kind)
    x = inputs(kind)
    want, before = model(x), snapshot(model)
    if not case.resolved.mergeable:
        return
    for _ in range(3):
        model.merge_adapter()
        assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
        model.unmerge_adapter()
    assert_same_state(model, before)
    assert torch.equal(model(x), want)


@seated
def test_merge_and_unload_leaves_the_plain_layer(case, kind):
    model = tuned(case, kind)
    x = inputs(kind)
    if not case.resolved.mergeable:
        with pytest.raises(ValueError, match="cannot be merged"):
            model.merge_and_unload()
        return
    want, plain = model(x), type(model.base_model.model.layer.base_layer)
    net = model.merge_and_unload(safe_merge=True)
    assert type(net.layer) is plain
    assert relative(net(x), want) < 2e-6


@seated
def test_gradients_reach_exactly_the_methods_parameters(case, kind):
    model = tuned(case, kind).train()
    mine = adapter_parameters(model)
    assert {k for k, p in model.named_parameters() if p.requires_grad} == set(mine)
    assert set(values_of(model.base_model.model.layer)) == set(case.resolved.parameters(14, 10))
    (model(inputs(kind)) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in mine), name
        if name in mine:
            assert parameter.grad.abs().max() > 0, name


@seated
@each(batch=[1, 31])
def test_no_dense_weight_gradient_is_computed(case, kind, batch):
    model = tuned(case, kind).train()
    n, m = kind.matrix(model.base_model.model.layer.base_layer).shape
    if case.resolved.count(n, m) >= n * m:
        pytest.skip("the method trains n m numbers itself")
    if case.resolved.rebuilds:
        pytest.skip("the method says that nothing cheaper exists")
    x = inputs(kind, batch)
    x.requires_grad_(x.is_floating_point())
    y = model(x).pow(2).sum()
    with BiggestProducts() as products:
        y.backward()
    assert products.sizes
    assert n * m not in products.sizes
    assert x.grad is not None or not x.is_floating_point()


@seated
def test_optimiser_steps_change_the_output(case, kind):
    """From the true start, and no parameter is born in forward, where an optimiser would never see it."""
    model = tuned(case, kind, init_weights=True).train()
    x = inputs(kind)
    before = dict(model.named_parameters())
    start = model.eval()(x).detach()
    model.train()
    optimiser = torch.optim.Adam(before.values(), lr=0.05)
    frozen = snapshot(model.base_model.model.layer.base_layer)
    initial = {k: p.detach().clone() for k, p in before.items()}
    for _ in range(3):
        optimiser.zero_grad()
        (model(x) - 1).pow(2).sum().backward()
        optimiser.step()
    after = dict(model.named_parameters())
    assert {k: id(p) for k, p in after.items()} == {k: id(p) for k, p in before.items()}
    assert relative(model.eval()(x), start) > 1e-4
    assert all(not torch.equal(after[k], initial[k]) for k in adapter_parameters(model))
    assert_same_state(model.base_model.model.layer.base_layer, frozen)


def evaluate(formula, **values):
    """A formula such as ``r (n + m)``, multiplication implied."""
    explicit = re.sub(r"([\w)])\s+(?=[\w(])", r"\1 * ", formula)
    return eval(explicit, {"__builtins__": {"max": max, "round": round}}, values)


@each(case=SINGLE, kind=KINDS)
def test_parameter_count_is_the_formula(case, kind):
    if not sits(case, kind):
        return
    model = tuned(case, kind)
    n, m = kind.matrix(model.base_model.model.layer.base_layer).shape
    fields = {k: v for k, v in vars(case.method).items() if isinstance(v, int | float)}
    counted = sum(p.numel() for p in adapter_parameters(model).values())
    assert counted == evaluate(case.method.formula, n=n, m=m, k=min(n, m), **fields, **case.method.sizes(n, m))
    assert counted == case.resolved.count(n, m)
    assert counted == model.get_nb_trainable_parameters()[0]


@seated
@each(dtype=[torch.float32, torch.bfloat16])
def test_zero_rows_give_zero_rows(case, kind, dtype):
    model = tuned(case, kind, dtype=dtype).train()
    x = inputs(kind, 0, dtype)
    y = model(x)
    assert y.shape == model.base_model.model.layer.base_layer(x).shape
    assert y.dtype == dtype
    y.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in adapter_parameters(model).values())


@seated
def test_strides_of_the_input_do_not_matter(case, kind):
    model = tuned(case, kind)
    x = inputs(kind, 4)
    strided = x.flip(0).transpose(0, -1).contiguous().transpose(0, -1).flip(0)
    every_other = torch.stack([x, x], 1).flatten(0, 1)[::2]
    assert not every_other.is_contiguous()
    torch.testing.assert_close(model(strided), model(x))
    torch.testing.assert_close(model(every_other), model(x))


@seated
def test_a_bf16_base_computes_what_the_fp32_base_does(case, kind):
    """With the adapter in fp32 on a bf16 base, as PEFT keeps it by default."""
    model = tuned(case, kind)
    x = inputs(kind).to(torch.bfloat16 if inputs(kind).is_floating_point() else torch.int64)
    want = model(x.float() if x.is_floating_point() else x)
    model.base_model.model.layer.base_layer.to(torch.bfloat16)
    y = model(x)
    assert y.dtype == torch.bfloat16
    assert relative(y, want) < 2e-2
    y.float().pow(2).sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in adapter_parameters(model).values())


@seated
def test_training_mode_changes_nothing_but_dropout(case, kind):
    model = tuned(case, kind)
    x = inputs(kind)
    calm = model(x)
    if case.resolved.noisy:
        assert relative(model.train()(x), model(x)) > 1e-3
        return
    fields = [getattr(f, "method", f) for f in getattr(case.method, "members", (case.method,))]
    model.train()
    if any(getattr(f, "dropout", 0) for f in fields):
        outs = torch.stack([model(x) for _ in range(400)])
        assert relative(outs[0], outs[1]) > 1e-3
        assert relative(outs.mean(0), calm) < 0.25  # the rows are kept in expectation
    else:
        torch.testing.assert_close(model(x), calm)


def has_several_valleys(case, W):
    """A product of products with fewer free numbers than W has: the search may end in a lesser valley."""
    if case.method.name != "loha":
        return False
    (n, m), r = W.shape, case.method.r
    return 2 * r * (n + m) - 2 * r**2 - (n + m - 1) < n * m  # A B = (A T) (T^-1 B), and rows and columns have a scale


@seated
def test_projecting_what_a_method_reaches_finds_it_again(case, kind):
    """W* = phi(W) for random parameters: the best fit captures all of W* - W."""
    if not case.resolved.mergeable or case.resolved.sits_on == "output":
        return
    searched = type(case.method).project in (Method.project, DoRA.project)
    if searched and kind not in KINDS[:2]:
        return  # a search takes its time, and sees a matrix, whatever layer it is from
    layer = tuned(case, kind, dtype=torch.float64).base_model.model.layer
    found, W, W_star = project_planted(case, layer)
    if has_several_valleys(case, W):
        assert found.captured_energy > 0.9
        return
    assert found.captured_energy > 1 - 1e-6
    E = case.resolved.phi(W, Params({**case.resolved.constants(W), **found.values}))
    assert relative(E.dense() - W.dense(), W_star.dense() - W.dense()) < 1e-3 or case.resolved.sits_on == "bias"
    held = held_by(layer)
    assert {k: v.shape for k, v in found.values.items()} == {k: v.shape for k, v in held.items()}


def project_planted(case, layer):
    """The best fit to what the adapter on a layer makes of it; W and W*."""
    made = layer.tuned(["default"])
    W = Weight(made.W.dense().detach(), None if made.b is None else made.W.own_bias.detach())
    W_star = Weight(made.E.dense().detach(), None if made.b is None else made.b.now().detach())
    stored = dict(layer.subspace_stored["default"].items()) if "default" in layer.subspace_stored else None
    how = Search(tries=3) if has_several_valleys(case, W) else PATIENT
    return project(case.resolved, W, W_star, how, stored=stored), W, W_star


@unseated
def test_a_method_without_a_seat_says_so(case, kind):
    with pytest.raises(Unsupported, match="sits on biases"):
        tuned(case, kind)


PARTNERS = [SSB(), LoRA(r=2)]


@each(case=SINGLE, partner=PARTNERS, first=[True, False])
def test_every_method_composes(case, partner, first):
    """Neither member is ignored, and the laws above hold for the pair."""
    pair = Case(case.method | partner if first else partner | case.method)
    kind = KINDS[0]
    test_identity_at_start(pair, kind, torch.float32)
    test_merged_equals_unmerged(pair, kind, torch.float32)
    test_unmerge_restores_bit_for_bit(pair, kind)
    test_gradients_reach_exactly_the_methods_parameters(pair, kind)
    test_optimiser_steps_change_the_output(pair, kind)
    assert pair.resolved.count(14, 10) == case.method.count(14, 10) + partner.count(14, 10)
