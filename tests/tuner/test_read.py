"""Layers whose owner reads their weight: what it reads is phi(W), also where a kernel would."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from cases import each
from model_types import ARCHITECTURES
from subspace_tuning import SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.methods import DoRA, Houlsby
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import Unsupported

READ = {
    "mamba": ["dt_proj", "conv1d", "x_proj", "out_proj"],
    "mamba2": ["conv1d", "out_proj"],
    "wavlm": ["q_proj", "k_proj", "v_proj", "out_proj"],
}


def made(name):
    return ARCHITECTURES[name].model(name), {k: v for k, v in ARCHITECTURES[name].inputs().items() if k != "labels"}


@each(name=list(READ), method=[LoRA(r=2), SSB(), DoRA(r=2), BitFit()])
def test_read_weights_are_those_of_phi(name, method, recwarn):
    base, inputs = made(name)
    biased = {k.rpartition(".")[2] for k, m in base.named_modules() if getattr(m, "bias", None) is not None}
    seats = [seat for seat in READ[name] if method != BitFit() or seat in biased]
    model = get_peft_model(base, SubspaceConfig(method=method, target_modules=seats, init_weights=False))
    model.train()(**inputs).logits.square().mean().backward()
    assert all(p.grad is not None for p in adapter_parameters(model).values())
    assert not [w for w in recwarn if "read by" in str(w.message) or "no part" in str(w.message)]
    want = model.eval()(**inputs).logits
    with model.disable_adapter():
        assert relative(want, model(**inputs).logits) > 1e-6
    assert relative(model.merge_and_unload()(**inputs).logits, want) < 1e-5


class Kernel(nn.Module):
    """A mixer that reads all of its weights, as a fused kernel does, where the other path calls them."""

    def __init__(self):
        super().__init__()
        self.A_log = nn.Parameter(torch.zeros(1))
        self.conv1d, self.out_proj = nn.Conv1d(4, 4, 3, groups=4, padding=1), nn.Linear(4, 4)

    def forward(self, x, fused):
        conv, out = self.conv1d, self.out_proj
        if not fused:
            return out(conv(x.mT).mT)
        y = nn.functional.conv1d(x.mT, conv.weight, conv.bias, padding=1, groups=4)
        return nn.functional.linear(y.mT, out.weight, out.bias)


@each(method=[LoRA(r=2), SSB(), BitFit(), DoRA(r=2)])
def test_a_kernel_that_reads_computes_what_the_calls_do(method):
    config = SubspaceConfig(method=method, target_modules=["conv1d", "out_proj"], init_weights=False)
    model, x = get_peft_model(Kernel(), config), torch.randn(2, 5, 4)
    torch.testing.assert_close(model(x, True), model(x, False))
    model(x, True).square().sum().backward()
    read = {k: p.grad.clone() for k, p in adapter_parameters(model).items()}
    model.zero_grad()
    model(x, False).square().sum().backward()
    for name, p in adapter_parameters(model).items():
        torch.testing.assert_close(p.grad, read[name])


def test_rows_of_several_adapters_take_the_path_that_calls():
    config = SubspaceConfig(method=LoRA(r=2), target_modules=["conv1d", "out_proj"], init_weights=False)
    model, x = get_peft_model(Kernel(), config).eval(), torch.randn(2, 5, 4)
    with model.disable_adapter():
        plain = model(x, False)
    both = model(x, False, adapter_names=["default", "__base__"])
    torch.testing.assert_close(both, torch.stack([model(x, False)[0], plain[1]]))
    with pytest.raises(ValueError, match=r"out_proj is read for all of them|conv1d is read for all of them"):
        model(x, True, adapter_names=["default", "__base__"])


def test_what_a_kernel_passes_by_is_named():
    config = SubspaceConfig(method=Houlsby(r=2), target_modules=["out_proj"])
    model = get_peft_model(Kernel(), config).train()
    with pytest.warns(UserWarning, match="out_proj are read by the module that holds them"):
        model(torch.randn(2, 5, 4), True)


def test_what_is_only_read_takes_maps_of_the_weight():
    base, _ = made("mamba")
    with pytest.raises(Unsupported, match=r"dt_proj: houlsby is no map of the weight alone, and its owner reads"):
        get_peft_model(base, SubspaceConfig(method=Houlsby(r=2), target_modules=["dt_proj"]))
    assert not any(isinstance(m, SubspaceLayer) for m in base.modules())
