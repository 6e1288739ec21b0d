"""DoRA's norms, starts other than LoRA's, and what the methods on singular vectors refuse."""

import pytest
import torch
from torch import nn

from cases import case
from subspace_tuning import SSB, LoRA
from subspace_tuning.method.registry import build
from subspace_tuning.testing.cases import Case, tuned, values_of
from subspace_tuning.testing.kinds import KINDS, inputs
from subspace_tuning.testing.law import relative
from subspace_tuning.testing.laws import truth
from subspace_tuning.testing.laws.training import BiggestProducts


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_dora_forms_nothing_of_the_weights_size(kind, detach):
    model = tuned(Case(build("dora", {"r": 2, "detach": detach})), kind).train()
    n, m = kind.matrix(model.base_model.model.layer.base_layer).shape
    x = inputs(kind, 31)
    with BiggestProducts() as products:
        model(x).pow(2).sum().backward()
    assert products.sizes
    assert n * m not in products.sizes


def test_gradients_reach_the_methods_before_dora_through_its_norms():
    """Where c is no constant, it depends on what came before; such a pair does form a matrix of the weight's size."""
    pair = case(SSB() | LoRA(r=2) | build("dora", {"r": 2, "detach": False}))
    truth.forward_is_the_dense_truth(pair, KINDS[0])
    truth.gradients_are_those_of_autograd_through_the_dense_truth(pair, KINDS[0])


def test_dora_leaves_columns_of_zeros_alone():
    """They have no direction; whatever is trained beside them, their output stays the bias."""
    layer = nn.Linear(14, 10)
    with torch.no_grad():
        layer.weight[3] = 0
    kind = KINDS[0]._replace(layer=lambda: layer)
    model = tuned(Case(build("dora", {"r": 2})), kind, init_weights=True)
    x = inputs(kind)
    y = model(x)
    assert relative(y, layer(x)) < 2e-6
    y.pow(2).sum().backward()
    optimiser = torch.optim.Adam(values_of(model.base_model.model.layer).values(), lr=1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        y = model.train()(x)
        (y - 1).square().mean().backward()
        optimiser.step()
    assert all(p.grad.isfinite().all() for p in values_of(model.base_model.model.layer).values())
    torch.testing.assert_close(y[..., 3], layer.bias[3].expand_as(y[..., 3]))
    assert (y - 1).square().mean() < (layer(x) - 1).square().mean()


@pytest.mark.parametrize("init", ["kaiming", "orthogonal", "pissa", "milora"])
@pytest.mark.parametrize("mpc", ["o", "d", "n"])
def test_every_start_keeps_the_weight_under_every_pattern(init, mpc):
    kind = KINDS[0]
    model = tuned(Case(LoRA(r=3, init=init), mpc), kind, init_weights=True)
    x = inputs(kind)
    assert relative(model(x), model.base_model.model.layer.base_layer(x)) < 2e-6


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("lora", {"init": "svd"}, "init is one of kaiming, orthogonal, pissa, milora"),
        ("lora", {"init": "pissa", "alpha": 0.0}, "needs alpha > 0"),
        ("psoft", {"r": 1}, "a rotation needs a rank r of 2 or more, got r=1"),
        ("spectral_rotation", {"r": 1}, "a rotation needs a rank r of 2 or more, got r=1"),
        ("svft", {"pattern": "plane"}, "pattern is one of plain, banded, random, got 'plane'"),
        ("svft", {"d": 2}, "the plain pattern has d=0, got d=2"),
        ("svft", {"pattern": "banded", "d": -1}, "a whole number >= 0, got -1"),
        ("osf", {"kept": 1.0}, r"a share of the singular values in \(0, 1\), got 1.0"),
    ],
)
def test_fields_that_make_no_sense_are_refused(name, fields, says):
    with pytest.raises(ValueError, match=f"{name}: .*{says}"):
        build(name, fields)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (build("svft", {"pattern": "banded", "d": 10}), r"d=10 must be below min\(n, m\) = 10 of a 14 x 10 weight"),
        (build("osf", {"kept": 0.99}), "of the 10 singular values of a 14 x 10 weight 10 would be kept"),
    ],
)
def test_weights_that_are_too_small_are_refused(method, says):
    with pytest.raises(ValueError, match=says):
        tuned(Case(method), KINDS[0])


def test_a_nonlinearity_between_factors_needs_a_product_that_is_added():
    with pytest.raises(ValueError, match="mpc='n' puts a nonlinearity between A and B, and dora is no"):
        Case(build("dora"), "n").config().resolved()
