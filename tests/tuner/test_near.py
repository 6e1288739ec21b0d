"""An adapter that starts near other weights: on a quantised base, near those before they were quantised."""

import copy

import pytest
import torch
from peft import get_peft_model
from peft.utils.loftq_utils import _low_rank_decomposition
from torch import nn

from models import bert
from quantised import nf4, quanto
from subspace_tuning import SSB, LoRA, SubspaceConfig, start_near
from subspace_tuning.methods import KaSA, TinyLoRA, TriLoRA, VeRA
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import weight_of

N, M = 64, 32


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(N, M), nn.Linear(M, N)

    def forward(self, x):
        return self.down(self.up(x).tanh())


def quantised(net, by):
    made = copy.deepcopy(net)
    made.up, made.down = by(made.up), by(made.down)
    return made


@pytest.mark.parametrize("by", [nf4, quanto], ids=["nf4", "int8"])
def test_lora_starts_at_the_largest_singular_values_of_what_quantising_took(by):
    pytest.importorskip({nf4: "bitsandbytes", quanto: "optimum.quanto"}[by])
    net = Two()
    model = get_peft_model(quantised(net, by), SubspaceConfig(method=LoRA(r=4), target_modules=["up", "down"]))
    told = start_near(model, net)
    for name in ("up", "down"):
        layer = model.get_submodule(f"base_model.model.{name}")
        W, Q = weight_of(getattr(net, name)).dense(), layer.frozen.dense()
        U, S, Vt = torch.linalg.svd(W - Q, full_matrices=False)
        torch.testing.assert_close(
            layer.tuned(["default"]).E.dense(), Q + U[:, :4] * S[:4] @ Vt[:4], rtol=1e-4, atol=1e-5
        )
        before, after = told[name]
        assert before == pytest.approx(relative(Q, W), rel=1e-3)
        assert after < 0.97 * before
    x = torch.randn(5, N)
    with model.disable_adapter(), torch.no_grad():
        away = relative(model(x), net(x))
    assert relative(model(x), net(x)) < away


def test_it_is_that_of_peft():
    """PEFT's product of factors, for a scale of one; its own function asks for a GPU before it comes to them."""
    pytest.importorskip("bitsandbytes")
    layer = nn.Linear(N, M, bias=False)
    model = get_peft_model(nn.Sequential(nf4(layer)), SubspaceConfig(method=LoRA(r=4, alpha=4.0), target_modules=["0"]))
    start_near(model, nn.Sequential(layer))
    tuned = model.base_model.model[0]
    theirs = _low_rank_decomposition(layer.weight.data - tuned.frozen.dense().T, 4)
    mine = tuned.trained("default")
    torch.testing.assert_close(mine["A"] @ mine["B"], (theirs["L"] @ theirs["R"]).T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [SSB(), TriLoRA(r=2), LoRA(r=2, init="pissa"), KaSA(r=2)], ids=lambda m: m.name)
def test_every_method_with_a_projection_starts_nearer(method):
    net, other = bert(), bert()
    with torch.no_grad():
        for p, q in zip(other.parameters(), net.parameters(), strict=True):
            p.copy_(q + 0.1 * q.std().nan_to_num() * torch.randn_like(q))
    model = get_peft_model(net, SubspaceConfig(method=method, target_modules=["query", "intermediate.dense"]))
    told = start_near(model, other)
    assert len(told) == len([m for m in model.modules() if isinstance(m, SubspaceLayer)])
    assert all(after < before for before, after in told.values())


@pytest.mark.parametrize(
    ("method", "other", "says"),
    [
        (VeRA(r=4), Two(), "vera has no projection of its own"),
        (TinyLoRA(), Two(), "no projection of its own on the weight of one layer"),
        (SSB() | LoRA(r=2), Two(), "no projection of its own"),
        (LoRA(r=2), nn.Sequential(nn.Linear(N, M)), "the other model has no up"),
    ],
    ids=["no projection", "shared", "composed", "another model"],
)
def test_what_cannot_be_is_said_and_nothing_changed(method, other, says):
    model = get_peft_model(Two(), SubspaceConfig(method=method, target_modules=["up", "down"]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=says):
        start_near(model, other)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_model_without_adapters_is_told():
    with pytest.raises(ValueError, match="no tuned layers"):
        start_near(Two(), Two())
