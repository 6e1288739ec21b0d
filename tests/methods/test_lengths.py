"""Methods that train lengths and directions apart: the lengths are what they say."""

import pytest
import torch

from cases import each
from subspace_tuning.algebra import Weight
from subspace_tuning.method import Params
from subspace_tuning.methods import MAP, DeLoRA, LoRA, SpecLoRA, SVFit
from subspace_tuning.methods.combine.map import EXTENSIONS
from subspace_tuning.methods.extend.delora import alike
from subspace_tuning.testing.cases import Case, tuned, tuned_layer, values_of
from subspace_tuning.testing.kinds import KINDS

LINEAR = KINDS[0]


def layer_of(method):
    return tuned_layer(tuned(Case(method), LINEAR, dtype=torch.float64))


@each(extension=EXTENSIONS)
def test_the_change_has_the_length_that_is_trained_around_every_extension(extension):
    layer = layer_of(MAP(r=3, extension=extension))
    made, values = layer.tuned(["default"]), values_of(layer)
    W = made.W.dense()
    length = (made.E.dense() - (1 + values["alpha"]) * W).norm()
    torch.testing.assert_close(length, (1 + values["beta"]).squeeze().abs())
    assert set(values) == {"alpha", "beta", *MAP(r=3, extension=extension).inner.parameters(*W.shape)}


def test_an_extension_that_map_does_not_go_around_is_named():
    with pytest.raises(ValueError, match=r"extension is one of lora, .*got 'pissa'"):
        MAP(extension="pissa")


def test_deloras_change_stays_within_its_bound():
    layer = layer_of(DeLoRA(r=3, bound=2.0))
    values = values_of(layer)
    with torch.no_grad():
        values["A"].mul_(100)
        values["B"].mul_(-7)
    made = layer.tuned(["default"])
    W = made.W.dense()
    assert ((made.E.dense() - W) / W.norm(dim=1, keepdim=True)).norm() <= (2 + values["delta"]) * (1 + 1e-9)


@each(S=[[3.0, 1.0, 0.5, 0.0, 0.0], [1.0, 1.0], [2.0], [0.0, 0.0, 0.0]])
def test_terms_are_turned_until_they_are_alike(S):
    S = torch.tensor(S, dtype=torch.float64)
    Q = alike(S)
    torch.testing.assert_close(Q.T @ Q, torch.eye(len(S), dtype=torch.float64))
    torch.testing.assert_close((Q.T @ torch.diag(S) @ Q).diagonal(), S.mean().expand(len(S)))


def test_speclora_is_svfit_before_lora():
    W = Weight(torch.randn(14, 10, dtype=torch.float64))
    spec, svfit, lora = SpecLoRA(r=2, directions=3), SVFit(r=3), LoRA(r=2)
    A, B, delta = (torch.randn(*shape, dtype=torch.float64) for shape in ((14, 2), (2, 10), (3,)))
    terms = spec.constants(W)
    one = spec.phi(W, Params({**terms, "A": A, "B": B, "delta": delta}))
    scaled = svfit.phi(W, Params({**svfit.constants(W), "delta": delta * terms["S"]}))
    two = lora.phi(scaled, Params({"A": A, "B": B}))
    torch.testing.assert_close(one.dense(), two.dense())
