"""Bottleneck adapters: parallel ones are LoRA held to MPC_n; serial ones see the whole output of their module."""

import pytest
import torch
from peft import get_peft_model

from cases import each
from models import batch, bert
from subspace_tuning import LoRA, SubspaceConfig
from subspace_tuning.methods import Houlsby, Parallel, Pfeiffer
from subspace_tuning.testing.cases import Case, tuned, values_of
from subspace_tuning.testing.kinds import KINDS, inputs


@each(kind=KINDS, s=[1.0, 4.0])
def test_a_parallel_adapter_is_lora_held_to_mpc_n(kind, s):
    torch.manual_seed(1)
    ours = tuned(Case(Parallel(r=3, s=s)), kind)
    torch.manual_seed(1)
    lora = tuned(Case(LoRA(r=3, alpha=3 * s), "n"), kind)
    x = inputs(kind)
    y, z = ours(x), lora(x)
    assert torch.equal(y, z)
    y.pow(2).sum().backward()
    z.pow(2).sum().backward()
    mine, theirs = (values_of(model.base_model.model.layer) for model in (ours, lora))
    assert set(mine) == set(theirs) == {"A", "B"}
    for name in mine:
        assert torch.equal(mine[name].grad, theirs[name].grad)


def test_houlsby_sits_twice_in_a_block_and_pfeiffer_once():
    d, layers = 16, 2
    for method, places in ((Houlsby(r=4), 2), (Pfeiffer(r=4), 1)):
        model = get_peft_model(bert(), SubspaceConfig(method=method))
        assert model.get_nb_trainable_parameters()[0] == places * layers * (2 * d * 4 + 4 + d)
        model(**batch()).loss.backward()


def test_an_adapter_sees_what_the_adapters_before_it_made_of_the_output():
    kind = KINDS[0]
    model = tuned(Case(LoRA(r=2) | Pfeiffer(r=3)), kind, dtype=torch.float64)
    layer, x = model.base_model.model.layer, inputs(kind, dtype=torch.float64)
    p, f = values_of(layer), layer.base_layer
    y = f(x) + 8.0 * x @ p["0_A"] @ p["0_B"]
    want = y + (y @ p["1_A"] + p["1_a"]).relu() @ p["1_B"] + p["1_b"]
    torch.testing.assert_close(model(x), want)


@each(method=["houlsby", "pfeiffer", "parallel"])
def test_an_unknown_nonlinearity_is_refused(method):
    with pytest.raises(ValueError, match=f"{method}: h is one of relu, gelu, silu, tanh, got 'sine'"):
        SubspaceConfig(method=method, h="sine")
