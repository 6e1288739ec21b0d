"""Every method on weights that are quantised, and merged into them: what is written is read back."""

import copy

import pytest
import torch
from torch import nn

from cases import CASES, case, each
from quantised import QUANTISED
from subspace_tuning import SSB, LoRA
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import NotTaken, weight_of

N, M = 64, 32
MERGEABLE = [c for c in CASES if c.resolved.mergeable]
LARGER = {"c3a": N}  # its numbers are divided by n: else its change is less than the steps of 4 bits


@pytest.fixture(scope="module", params=QUANTISED)
def plain(request):
    """Makes a linear layer, always the same, quantised."""

    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return request.param(nn.Linear(N, M)).eval()

    return make


def tuned(layer, method, init_weights=False):
    made = SubspaceLayer(layer).eval()
    made.add("default", method, init_weights=init_weights)
    made._uncalibrated.clear()
    return made


def state(layer):
    """All numbers that a layer holds, by name."""
    held = layer.state_dict()
    return {k: copy.deepcopy(v) for k, v in held.items() if isinstance(v, torch.Tensor)}


def same(first, second):
    return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)


def _equal(a, b):
    plain = type(a) in (torch.Tensor, nn.Parameter)
    return torch.equal(a, b) if plain else torch.equal(a.dequantize(), b.dequantize())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1)


def test_the_weight_that_is_read_is_the_one_that_is_multiplied_with(plain):
    x = torch.randn(5, N)
    W = weight_of(plain())
    assert W.quantised
    torch.testing.assert_close(W.layer(x), x @ W.dense() + W.layer.bias, rtol=0.03, atol=0.03)  # int8 rounds x as well


@each(case=CASES)
def test_a_method_trains_on_a_quantised_weight(plain, case):
    layer = tuned(plain(), case.resolved).train()
    x = torch.randn(5, N)
    before = state(layer.base_layer)
    W, b = weight_of(layer.base_layer).dense(), layer.base_layer.bias
    y = layer.eval()(x)
    dense = SubspaceLayer(nn.Linear(N, M)).eval()
    dense.base_layer.weight.data, dense.base_layer.bias.data = W.T.contiguous(), b.detach().clone()
    dense.add("default", case.resolved)
    dense.restart("default", layer.values("default"))
    assert relative(y, dense(x)) < 0.1  # int8 rounds the rows as well
    layer.train()(x.requires_grad_()).square().sum().backward()
    assert x.grad.abs().min() > 0
    assert all(p.grad is not None for p in layer.subspace_params["default"].values())
    assert same(before, state(layer.base_layer))


def test_what_was_evaluated_before_it_is_tuned_passes_gradients_on(plain):
    evaluated = plain().requires_grad_(False)
    with torch.no_grad():
        evaluated(torch.randn(5, N))
    x, want = torch.randn(5, N, requires_grad=True), weight_of(plain()).dense().sum(1)
    layer = tuned(evaluated, LoRA(r=2), init_weights=True)
    for _ in range(2):
        x.grad = None
        layer.train()(x).sum().backward()
        torch.testing.assert_close(x.grad, want.expand(5, N), rtol=0.05, atol=0.05)
        with torch.no_grad():
            layer.eval()(x)


@each(case=MERGEABLE)
def test_merging_requantises_and_unmerging_restores_every_bit(plain, case):
    check_merging(plain, case, called=False)


@each(case=[case(LoRA(r=2)), case(SSB())])
def test_merging_after_a_forward_restores_every_bit_too(plain, case):
    check_merging(plain, case, called=True)  # which moves int8's scales, whatever the method


def check_merging(plain, case, called):
    layer = tuned(plain(), case.resolved)
    x = torch.randn(5, N)
    layer.requires_grad_(False)
    for value in layer.subspace_params["default"].values():
        value.mul_(LARGER.get(case.resolved.name, 1))
    if called:
        layer(x)
    twin = tuned(plain(), case.resolved)
    twin.restart("default", layer.values("default"))
    before, y, want = state(layer.base_layer), twin(x), layer.tuned(["default"]).E.dense()
    layer.merge()
    assert relative(weight_of(layer.base_layer).dense(), want) < 0.2
    assert relative(layer(x), y) < 0.4
    layer.unmerge()
    assert same(before, state(layer.base_layer))


def test_an_adapter_that_does_nothing_merges_as_nothing(plain):
    layer = tuned(plain(), LoRA(r=2), init_weights=True)
    before = weight_of(layer.base_layer).dense()
    layer.merge()
    torch.testing.assert_close(weight_of(layer.base_layer).dense(), before, rtol=0.01, atol=0.01)


def test_a_change_smaller_than_the_steps_is_said_to_be_lost(plain):
    layer = tuned(plain(), LoRA(r=2), init_weights=True)
    W = layer.frozen.dense()
    layer.subspace_params["default"]["B"].data.normal_(std=3e-5 * W.std().item())
    before, codes = state(layer.base_layer), layer.frozen.survives(W).changed
    if codes:  # torchao's own rounding moves some, whatever is written
        with pytest.warns(UserWarning, match="worse than without it"):
            layer.merge()
        return
    with pytest.raises(NotTaken, match=r"keep the adapter unmerged.*--to lora"):
        layer.merge()
    assert not layer.merged
    assert same(before, state(layer.base_layer))


def test_what_survives_is_told_without_writing(plain):
    W = weight_of(plain())
    before, old = state(W.layer), W.dense().clone()
    large, small = torch.randn(N, M), 1e-6 * torch.randn(N, M)
    told = W.survives(old + large)
    assert same(before, state(W.layer))
    W.assign(old + large, None)
    assert told.error == pytest.approx(relative(W.dense() - old, large), rel=1e-3)
    assert told.changed > 0.2
    assert weight_of(plain()).survives(old + small).error > 0.5


def test_a_write_that_does_not_take_is_an_error():
    class Deaf(nn.Parameter):
        def copy_(self, other):
            return self

    layer = nn.Linear(N, M)
    layer.weight = Deaf(layer.weight.data)
    W = weight_of(layer)
    with pytest.raises(NotTaken, match="Linear did not take its new weight"):
        W.assign(2 * W.dense(), None)


def test_nothing_is_written_where_the_weight_is_not_here():
    W = weight_of(nn.Linear(N, M, device="meta"))
    with pytest.raises(NotTaken, match="offloaded"):
        W.assign(torch.ones(N, M), None)
