"""SHiRA trains the entries that are largest by the measure that was asked for, or those that follow from the seed."""

import torch
from peft import get_peft_model
from torch import nn

from cases import each
from subspace_tuning import SubspaceConfig, calibrate
from subspace_tuning.methods import SHiRA
from subspace_tuning.testing.cases import Net, tuned_layer


def loss(model, x):
    return (model(x) - 1).square().mean()


def put(net, **fields):
    return get_peft_model(net, SubspaceConfig(method=SHiRA(r=1, **fields), target_modules=["layer"]))


@each(mask=["magnitude", "gradient", "snip"])
def test_the_largest_entries_are_trained(mask):
    net, x = Net(nn.Linear(14, 10)), torch.randn(6, 14)
    W = net.layer.weight
    (G,) = torch.autograd.grad(loss(net, x), W)
    scores = {"magnitude": W, "gradient": G, "snip": W * G}[mask].detach().abs().T
    model = put(net, mask=mask)
    if mask != "magnitude":
        calibrate(model, [x], loss=loss)
    held = tuned_layer(model).values("default")
    assert held["places"].tolist() == scores.flatten().topk(24).indices.sort().values.tolist()
    assert not held["v"].any()


def test_the_random_mask_follows_from_the_seed_and_is_not_stored():
    layers = [tuned_layer(put(Net(nn.Linear(14, 10)), seed=seed)) for seed in (1, 1, 2)]
    one, again, other = (layer.constants("default")["places"].tolist() for layer in layers)
    assert one == again != other
    assert len({*one}) == 24
    assert "default" not in layers[0].subspace_stored
