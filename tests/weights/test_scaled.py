"""transformers' linear layers in 8-bit floating point: read, merged into, and put back bit for bit."""

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers.integrations.compressed_tensors import CompressedTensorsFP8Linear
from transformers.integrations.fbgemm_fp8 import FbgemmFp8Linear
from transformers.integrations.finegrained_fp8 import FP8Linear, _dequantize_fp8_weight

from cases import each
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.methods import DoRA, VeRA
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import Unsupported, weight_of
from subspace_tuning.weights.experts import experts_of

N, M = 40, 24
EIGHT = torch.float8_e4m3fn


def whole():
    return FP8Linear(N, M, has_bias=True)


def blocks():
    return FP8Linear(N, M, block_size=(16, 16), has_bias=True)


def powers():
    return FP8Linear(N, M, block_size=(8, 32), scale_fmt="ue8m0")


def rows():
    return FbgemmFp8Linear(N, M, bias=True)


def columns():
    return CompressedTensorsFP8Linear(N, M, has_bias=True)


KINDS = {whole: "weight_scale_inv", blocks: "weight_scale_inv", powers: "weight_scale_inv"}
KINDS |= {rows: "weight_scale", columns: "weight_scale"}


def truth(layer):
    """W (n, m), by transformers' own rule where it has one for this machine."""
    if isinstance(layer, FP8Linear):
        return _dequantize_fp8_weight(layer.weight, layer.weight_scale_inv, layer.block_size, torch.float32).T
    return layer.weight.float().T * layer.weight_scale.reshape(1, M)


def made(kind):
    """A layer with random codes and scales; its kernel, which wants a GPU, is the product with W."""
    g = torch.Generator().manual_seed(0)
    layer, scales = kind(), KINDS[kind]
    held = getattr(layer, scales)
    layer.weight = nn.Parameter(torch.randn(M, N, generator=g).mul(100).clamp(-440, 440).to(EIGHT))
    numbers = torch.rand(held.shape, generator=g).mul(8).floor().sub(12).exp2()
    setattr(layer, scales, nn.Parameter(numbers.to(held.dtype), requires_grad=False))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.randn(M, generator=g))
    layer.forward = lambda x: F.linear(x, truth(layer).T, layer.bias)
    return layer.requires_grad_(False).eval()


def numbers(layer):
    return {
        k: v.clone().view(torch.uint8) if v.element_size() == 1 else v.clone() for k, v in layer.state_dict().items()
    }


@each(kind=list(KINDS))
def test_the_weight_is_codes_times_scales(kind):
    W = weight_of(made(kind))
    assert W.quantised
    torch.testing.assert_close(W.dense(), truth(W.layer), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:.*worse than without it")  # VeRA changes next to nothing
@each(kind=list(KINDS), method=[LoRA(r=2), SSB(), DoRA(r=2), VeRA(r=2)])
def test_methods_train_merge_and_come_back(kind, method):
    torch.manual_seed(1)
    layer = SubspaceLayer(made(kind))
    layer.add("default", method, init_weights=False)
    assert all(p.dtype == torch.float32 for p in layer.subspace_params["default"].values())
    before, x = numbers(layer.base_layer), torch.randn(5, N)
    E = layer.tuned(["default"]).E.dense()
    y = layer(x)
    assert relative(y, x @ E + (0 if layer.base_layer.bias is None else layer.base_layer.bias)) < 1e-4
    y.square().sum().backward()
    layer.requires_grad_(False).merge()
    assert relative(truth(layer.base_layer), E) < 0.05
    assert relative(layer(x), y) < 0.05
    layer.unmerge()
    after = numbers(layer.base_layer)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_experts_in_codes_are_no_weights_here():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.down_proj = nn.Parameter(torch.randn(3, 8, 8).to(EIGHT), requires_grad=False)
            self.down_proj_scale_inv = nn.Parameter(torch.ones(3, 1, 1))

    model = nn.ModuleDict({"experts": Experts(), "gate": nn.Linear(8, 8)})
    assert not list(experts_of("experts", model["experts"]))
    with pytest.raises(Unsupported, match=r"down_proj is kept as float8_e4m3fn.*16 or 32 bits"):
        get_peft_model(model, SubspaceConfig(method=LoRA(r=2), target_modules=["gate", "down_proj"]))
