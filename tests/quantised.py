"""Linear layers with quantised weights, by the libraries that are there; they run without a GPU."""

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn


def int8(layer: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    made = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False)
    return _filled(made, layer)


def nf4(layer: nn.Linear, twice: bool = False) -> nn.Module:
    import bitsandbytes as bnb

    about = {"quant_type": "nf4", "compress_statistics": twice}
    return _filled(bnb.nn.Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, **about), layer)


def nf4_twice(layer: nn.Linear) -> nn.Module:
    return nf4(layer, twice=True)


def _filled(made: nn.Module, layer: nn.Linear) -> nn.Module:
    made.load_state_dict(layer.state_dict())
    return made.to("cpu")  # where bitsandbytes quantises


def quanto(layer: nn.Linear, bits: str = "qint8") -> nn.Module:
    from optimum import quanto

    held = nn.Sequential(layer)
    quanto.quantize(held, weights=getattr(quanto, bits))
    quanto.freeze(held)
    return held[0].requires_grad_(False)


def quanto4(layer: nn.Linear) -> nn.Module:
    from optimum.quanto.library.extensions import get_extension

    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=_unpack)  # compiling its own takes a minute
    return quanto(layer, "qint4")


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.cat([(packed >> bits * i) & (2**bits - 1) for i in range(8 // bits)])


def torchao8(layer: nn.Linear) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig

    return _torchao(layer, Int8WeightOnlyConfig())


def torchao4(layer: nn.Linear) -> nn.Module:
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup

    return _torchao(layer, IntxWeightOnlyConfig(torch.int4, PerGroup(32)))


def _torchao(layer: nn.Linear, config: object) -> nn.Module:
    from torchao.quantization import quantize_

    held = nn.Sequential(layer)
    quantize_(held, config)
    return held[0].requires_grad_(False)


def hqq(layer: nn.Linear) -> nn.Module:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    config = BaseQuantizeConfig(nbits=4, group_size=None)
    made = HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu").requires_grad_(False)
    made.truth = lambda: made.dequantize().T
    return made


class Packed(nn.Module):
    """Two codes of four bits in a byte, inputs first, with scales and zeros for each output: GPTQ's way."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        W = layer.weight.detach().T
        low, scales = W.amin(0), (W.amax(0) - W.amin(0)) / 15
        codes = ((W - low) / scales).round().to(torch.uint8)
        self.register_buffer("qweight", codes[0::2] | codes[1::2] << 4)
        self.register_buffer("scales", scales)
        self.register_buffer("qzeros", low)
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)

    def truth(self):
        codes = torch.stack([self.qweight & 15, self.qweight >> 4], 1).flatten(0, 1)
        return codes * self.scales + self.qzeros

    def forward(self, x):
        return x @ self.truth().to(x.dtype) + self.bias


def _needs(package: str, *makes: Callable) -> list:
    missing = find_spec(package) is None
    return [pytest.param(m, id=m.__name__, marks=pytest.mark.skipif(missing, reason=f"needs {package}")) for m in makes]


BITSANDBYTES = _needs("bitsandbytes", int8, nf4, nf4_twice)
QUANTISED = [*BITSANDBYTES, *_needs("optimum", quanto, quanto4), *_needs("torchao", torchao8, torchao4)]
HQQ = _needs("hqq", hqq)
