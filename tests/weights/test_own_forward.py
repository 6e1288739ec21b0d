"""Layers that keep something else than W, of libraries that nobody here knows: read truly, or refused in a sentence."""

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn import functional as F

import models
from cases import CASES, each
from quantised import HQQ, Packed
from subspace_tuning import IA3, SSB, LoRA
from subspace_tuning.methods import DoRA, PiSSA
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.targets import all_linear
from subspace_tuning.weights import Unsupported, weight_of

N, M = 16, 12


class Rotated(nn.Linear):
    """The weight is kept turned, in plain numbers, and rows are turned before they meet it."""

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict(layer.state_dict())
        self.turn = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(3))).Q

    def truth(self):
        return self.turn @ self.weight.T

    def forward(self, x):
        return F.linear(x @ self.turn, self.weight, self.bias)


class Scaled(nn.Linear):
    """Codes, in plain numbers too, and beside them a scale."""

    def __init__(self, layer, dtype=torch.float32):
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict(layer.state_dict())
        self.weight_scale = nn.Parameter(layer.weight.detach().abs().amax(1, keepdim=True) / 127)
        self.weight = nn.Parameter((layer.weight.detach() / self.weight_scale).round().to(dtype), requires_grad=False)

    def truth(self):
        return (self.weight.float() * self.weight_scale).T

    def forward(self, x):
        return x @ self.truth() + self.bias


class Eight(Scaled):
    def __init__(self, layer):
        super().__init__(layer, torch.float8_e4m3fn)


class Kernel(Packed):
    """Its forward does not run on this machine."""

    def forward(self, x):
        raise RuntimeError("no kernel image is available for execution on the device")


class Cosine(Packed):
    """Its forward is no product with a matrix."""

    def forward(self, x):
        return F.normalize(x, dim=-1) @ self.truth() + self.bias


class Gate(Packed):
    """Its forward answers with something else than rows."""

    def forward(self, x):
        return super().forward(x), None


KINDS = [Packed, Rotated, Scaled, Eight, *HQQ]


def made(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(nn.Linear(N, M)).requires_grad_(False).eval()


def tuned(base, method):
    layer = SubspaceLayer(base).eval()
    layer.add("default", method, init_weights=False)
    layer._uncalibrated.clear()
    return layer


@each(kind=KINDS)
def test_what_is_read_is_what_rows_are_multiplied_with(kind):
    W = weight_of(made(kind))
    assert W.quantised
    assert W.shape == (N, M)
    torch.testing.assert_close(W.dense(), W.layer.truth(), rtol=1e-4, atol=1e-5)


@each(case=CASES, kind=[Packed, Rotated, *HQQ])
def test_every_method_is_its_equation_of_that_weight(case, kind):
    torch.manual_seed(1)
    base = made(kind)
    layer, x = tuned(base, case.resolved), torch.randn(5, N)
    plain = nn.Linear(N, M)
    plain.weight.data, plain.bias.data = base.truth().T.contiguous(), base.bias.detach().clone()
    dense = tuned(plain, case.resolved)
    dense.restart("default", layer.values("default"))
    assert relative(layer(x), dense(x)) < 1e-3
    layer.train()(x.requires_grad_()).square().sum().backward()
    assert all(p.grad is not None for p in layer.subspace_params["default"].values())
    assert x.grad.abs().sum() > 0


def test_they_are_tuned_where_no_gradient_is_asked_for():
    with torch.no_grad():
        assert tuned(made(Packed), DoRA(r=2)).methods


@each(kind=KINDS, method=[LoRA(r=2), SSB()])
def test_nothing_is_merged_where_nothing_can_be_written(kind, method):
    torch.manual_seed(1)
    layer = tuned(made(kind), method)
    before = held(layer)
    with pytest.raises(Unsupported, match=r"16 or 32 bits.*keep the adapter.*--to lora"):
        layer.merge()
    assert not layer.merged
    after = held(layer)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k].float(), v.float()) for k, v in after.items())


def held(layer):
    """The tensors of what is tuned, as they are now; HQQ's come with other things."""
    state = layer.base_layer.state_dict()
    return {k: v.detach().clone() for k, v in state.items() if isinstance(v, torch.Tensor)}


def reads(method):
    """Whether a method reads W of a layer that can be multiplied with as well, at its start or in training."""
    base = made(Packed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(weight_of(base)), "dense", lambda W: pytest.fail("read"))
        patch.setattr("subspace_tuning.tuner.start.by_forward_alone", lambda method: True)
        try:
            layer = tuned(base, method).train()
            layer(torch.randn(3 * N, N)).sum().backward()
        except pytest.fail.Exception:
            return True
    return False


@each(case=CASES)
def test_methods_that_read_w_are_refused_where_it_cannot_be_read(case):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(N, N), made(Kernel))
    held = list(model.modules())
    config = case.config(target_modules=["1"], init_weights=False)
    if reads(case.resolved):
        with pytest.raises(Unsupported, match=r"1: the numbers of the weight of Kernel are asked for.*no kernel image"):
            get_peft_model(model, config)
        assert list(model.modules()) == held
    else:
        get_peft_model(model, config)


@each(method=[LoRA(r=2), SSB(), IA3(), DoRA(r=2), PiSSA(r=2)], kind=[Cosine, Gate])
def test_what_is_no_product_with_a_matrix_is_refused(method, kind):
    with pytest.raises(Unsupported, match=f"{kind.__name__} does not"):
        tuned(made(kind), method)


def test_all_linear_takes_them_and_leaves_out_what_is_no_product():
    model = models.bert(hidden_size=N, intermediate_size=M)
    first, second = (layer.intermediate for layer in model.bert.encoder.layer)
    first.dense, second.dense = made(Packed), made(Gate)
    with pytest.warns(UserWarning, match="left out: bert.encoder.layer.1.intermediate.dense Gate"):
        names = all_linear(model)
    assert "bert.encoder.layer.0.intermediate.dense" in names
    assert "bert.encoder.layer.1.intermediate.dense" not in names
    assert len(names) == 12


def test_codes_of_other_layers_are_refused():
    table = nn.Embedding(N, M)
    table.weight = nn.Parameter(table.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(Unsupported, match="Embedding keeps its weight as float8_e4m3fn"):
        weight_of(table)
