"""nn.MultiheadAttention reads its weights and calls nothing: what it reads is phi(W), on every path that it goes."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.func import functional_call

from cases import SINGLE, each
from subspace_tuning import SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.methods import DoRA, Houlsby, Parallel
from subspace_tuning.testing.cases import adapter_parameters, held_by
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.read import check_read
from subspace_tuning.weights import Unsupported

D = 14
ROLES = ("query", "key", "value")
SEATS = [f"self_attn.{role}" for role in (*ROLES, "out_proj")]


def has_seat(one):
    try:
        check_read(one.resolved)
    except Unsupported:
        return False
    return True


MAPS = [one for one in SINGLE if has_seat(one) and not one.resolved.shared]  # sharing has laws of its own


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        block = nn.TransformerEncoderLayer(D, 2, 12, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 1)

    def forward(self, x, mask=None):
        return self.encoder(x, src_key_padding_mask=mask)


def put(method, seats=SEATS, net=None, **values):
    values = {"init_weights": False, "target_modules": seats, **values}
    return get_peft_model(net or Encoder(), SubspaceConfig(method=method, **values)).eval()


def inputs():
    x, mask = torch.randn(3, 5, D), torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = True
    return x, mask


def true_weights(one, model, values):
    """The network's own parameters with the equation's matrices written into them, rows of torch's in_proj by role."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, SubspaceLayer):
            role, attention = name.rpartition(".")[2], model.get_submodule(name.rpartition(".")[0])
            held = attention._parameters if role in ROLES else attention.out_proj.base_layer._parameters
            W, b = (held[f"in_proj_{k}" if role in ROLES else k].detach().clone() for k in ("weight", "bias"))
            at = slice(ROLES.index(role) * D, (ROLES.index(role) + 1) * D) if role in ROLES else slice(None)
            found[role] = one.dense(W[at].T, b[at], {**held_by(layer), **values(name, layer)})
    of_roles = [found[role] for role in ROLES]
    block = "encoder.layers.0.self_attn."
    return {
        f"{block}in_proj_weight": torch.cat([W.T for W, _ in of_roles]),
        f"{block}in_proj_bias": torch.cat([b for _, b in of_roles]),
        f"{block}out_proj.weight": found["out_proj"][0].T,
        f"{block}out_proj.bias": found["out_proj"][1],
    }


@pytest.mark.parametrize("one", MAPS, ids=str)
def test_every_map_of_the_weight_is_read_trained_and_merged(one):
    x, mask = inputs()
    x, net = x.double(), Encoder().double().eval()
    plain = copy.deepcopy(net)
    model = put(one.resolved, net=net)
    parameters = adapter_parameters(model)
    copies = {k: p.detach().clone().requires_grad_() for k, p in parameters.items()}

    def copied(name, layer):
        return {k: copies[f"{name}.subspace_params.default.{k}"] for k in layer.subspace_params["default"]}

    want = functional_call(plain, true_weights(one, model, copied), (x, mask))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    y = model(x, mask)
    same = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(y[~mask], want[~mask], **same)
    pull = torch.randn_like(y[~mask])
    got = torch.autograd.grad((y[~mask] * pull).sum(), list(parameters.values()))
    for g, w in zip(got, torch.autograd.grad((want[~mask] * pull).sum(), list(copies.values())), strict=True):
        torch.testing.assert_close(g, w, **same)
    with torch.no_grad():  # fused kernels, of the attention and of the block, nested
        torch.testing.assert_close(model(x, mask)[~mask], want[~mask], **same)
        torch.testing.assert_close(model(x), functional_call(plain, true_weights(one, model, copied), (x,)), **same)
        model.merge_adapter()
        torch.testing.assert_close(model(x, mask)[~mask], want[~mask], **same)
    model.unmerge_adapter()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x, mask)[~mask], want[~mask], **same)
    assert set(merged.state_dict()) == set(plain.state_dict())
    assert type(merged.encoder.layers[0].self_attn) is nn.MultiheadAttention


@each(seats=[["self_attn.key", "self_attn.value"], ["out_proj"], SEATS])
def test_saved_and_loaded(seats, tmp_path):
    net, (x, mask) = Encoder(), inputs()
    plain = copy.deepcopy(net).eval()
    model = put(SSB() | DoRA(r=2), seats, net)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(x, mask), model(x, mask))
        assert torch.equal(copy.deepcopy(model)(x, mask), model(x, mask))
    with model.disable_adapter():
        torch.testing.assert_close(model(x, mask)[~mask], plain(x, mask)[~mask])
    assert relative(model(x), plain(x)) > 1e-3
    unloaded = model.unload()
    with torch.no_grad():
        assert torch.equal(unloaded(x), plain(x))
    assert [type(m) for m in unloaded.modules()] == [type(m) for m in plain.modules()]


def test_training_says_nothing_and_moves_what_is_tuned(recwarn):
    x, mask = inputs()
    model = put(LoRA(r=2), init_weights=True).train()
    start = model(x, mask).detach()
    assert not [w for w in recwarn if "read by" in str(w.message) or "no part" in str(w.message)]
    optimiser = torch.optim.Adam(adapter_parameters(model).values(), lr=0.05)
    for _ in range(2):
        optimiser.zero_grad()
        model(x, mask).sub(1).square().sum().backward()
        optimiser.step()
    assert relative(model(x, mask), start) > 1e-3
    assert {p.requires_grad for k, p in model.named_parameters() if "subspace_" not in k} == {False}


def test_default_modules_and_biases():
    """Of blocks in a list the default is keys, values and the first of the feed-forward."""
    model = get_peft_model(Encoder(), SubspaceConfig(method=SSB()))
    names = {
        k.removeprefix("base_model.model.encoder.layers.0.")
        for k, m in model.named_modules()
        if isinstance(m, SubspaceLayer)
    }
    assert names == {"self_attn.key", "self_attn.value", "linear1"}
    x, mask = inputs()
    model = put(BitFit(), None)
    want = model(x, mask)
    with torch.no_grad():
        torch.testing.assert_close(model(x, mask)[~mask], want[~mask])
    torch.testing.assert_close(model.merge_and_unload()(x, mask)[~mask], want[~mask])


@each(method=[Houlsby(r=2), LoRA(r=2), SSB() | LoRA(r=2)])
def test_a_block_of_torch_is_what_its_tuned_feed_forward_is(method):
    """Its fused kernel reads these weights; where phi(W) is not all, the block goes without it."""
    x, _ = inputs()
    model = put(method, ["linear1", "linear2"])
    want = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), want)
    with model.disable_adapter():
        assert relative(model(x), want) > 1e-3


@each(method=[Houlsby(r=2), Parallel(r=2), LoRA(r=2, dropout=0.1), LoRA(r=2, init="eva")])
def test_methods_that_phi_does_not_say_all_of_are_refused(method):
    net = Encoder()
    with pytest.raises(Unsupported, match=r"out_proj: .*its owner reads this weight and does not call the layer"):
        put(method, ["out_proj"], net)
    assert type(net.encoder.layers[0].self_attn.out_proj) is not SubspaceLayer
    with pytest.raises(Unsupported, match=r"holds several weights.*name its query, key, value and out_proj"):
        put(LoRA(r=2), ["self_attn"], net)


def test_rows_of_several_adapters_are_refused():
    model = put(LoRA(r=2))
    with pytest.raises(ValueError, match=r"adapter_names picks an adapter for each sample, and phi\(W\) of .*query"):
        model(inputs()[0], adapter_names=["default", "__base__", "default"])


def test_keys_of_another_width_are_no_slices_and_the_output_is_tuned():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(D, 2, kdim=6, vdim=6, batch_first=True)

        def forward(self, x, z):
            return self.attention(x, z, z)[0]

    x, z = torch.randn(2, 3, D), torch.randn(2, 4, 6)
    model = put(LoRA(r=2), ["out_proj"], Cross())
    want = model(x, z)
    torch.testing.assert_close(model.merge_and_unload()(x, z), want)
    with pytest.raises(ValueError, match=r"name its out_proj"):
        put(LoRA(r=2), ["attention"], Cross())
