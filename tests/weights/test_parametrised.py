"""Weights that a layer computes from what it stores: merged where that can make phi(W), else refused."""

import copy
import warnings

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from cases import each
from subspace_tuning import SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.methods import DoRA
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.testing.law import relative
from subspace_tuning.weights import NotTaken


class Doubled(nn.Module):
    def forward(self, W):
        return 2 * W

    def right_inverse(self, W):
        return W / 2


class Squared(nn.Module):
    def forward(self, W):
        return W * W.abs()


def parametrised(layer, how):
    return parametrize.register_parametrization(layer, "weight", how) or layer


ANY_WEIGHT = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm of all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "older weight_norm": nn.utils.weight_norm,
    "invertible": lambda layer: parametrised(layer, Doubled()),
}
SOME_WEIGHTS = {
    "spectral_norm": parametrizations.spectral_norm,
    "older spectral_norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "not invertible": lambda layer: parametrised(layer, Squared()),
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}
LAYERS = {"linear": (lambda: nn.Linear(6, 6), (3, 6)), "conv": (lambda: nn.Conv1d(6, 6, 2), (3, 6, 5))}


class Two(nn.Module):
    def __init__(self, plain, other):
        super().__init__()
        self.plain, self.other = plain, other

    def forward(self, x):
        return self.other(self.plain(x))


def made(how, method, layer="linear"):
    """A plain layer and a parametrised one, both tuned, and inputs."""
    make, shape = LAYERS[layer]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = Two(make(), how(make()))
    config = SubspaceConfig(method=method, target_modules=["plain", "other"], init_weights=False)
    return get_peft_model(net, config).eval(), torch.randn(shape)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


@each(how=list(ANY_WEIGHT), method=[LoRA(r=2), SSB(), DoRA(r=2), BitFit()], layer=list(LAYERS))
def test_what_is_stored_makes_the_merged_weight(how, method, layer):
    model, x = made(ANY_WEIGHT[how], method, layer)
    plain = copy.deepcopy(model).unload()
    want, before = model(x), state(model)
    assert relative(want, plain(x)) > 1e-3
    model.merge_adapter()
    assert relative(model(x), want) < 1e-5
    model.unmerge_adapter()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), want)
    merged = model.merge_and_unload()
    assert relative(merged(x), want) < 1e-5
    assert set(merged.state_dict()) == set(plain.state_dict())  # a checkpoint of the same form
    plain.load_state_dict(merged.state_dict())
    assert torch.equal(plain(x), merged(x))


@each(how=list(SOME_WEIGHTS))
def test_a_weight_that_cannot_be_made_is_trained_and_not_merged(how):
    model, x = made(SOME_WEIGHTS[how], LoRA(r=2))
    model(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter_parameters(model).values())
    want, before = model(x), state(model)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(NotTaken, match=r"is computed by .*keep the adapter unmerged, or take that away"):
            merge()
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert torch.equal(model(x), want)


def test_biases_beside_a_weight_that_cannot_be_made_are_merged():
    model, x = made(parametrizations.spectral_norm, BitFit())
    want = model(x)
    assert relative(model.merge_and_unload()(x), want) < 1e-6


def test_what_leaves_zeros_where_they_are_is_merged_into_a_pruned_weight():
    model, x = made(SOME_WEIGHTS["pruned"], SSB())
    want = model(x)
    merged = model.merge_and_unload()
    assert relative(merged(x), want) < 1e-6
    assert prune.is_pruned(merged)


def test_what_a_hook_computes_is_read_as_it_would_be_now():
    """Not as it was at the last forward, before numbers were loaded or cast."""
    model, x = made(ANY_WEIGHT["older weight_norm"], DoRA(r=2))
    net = model.unload()
    net.other.weight_g.data.mul_(3)
    net.double()
    tuned = get_peft_model(net, SubspaceConfig(method=DoRA(r=2), target_modules=["other"])).eval()
    torch.testing.assert_close(tuned(x.double()), net.other.base_layer(net.plain(x.double())))
