"""nn.Linear with a quantised weight: x W by the layer's own forward, W de-quantised where it is read, requantised where
it is written. One short class a library; none of them is imported here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.weights.layer import Unsupported
from subspace_tuning.weights.linear import LinearWeight
from subspace_tuning.weights.written import WAYS_OUT, Survived, check_near, check_survived, survived


class QuantisedWeight(LinearWeight):
    """W_q of a quantised layer; writing W gives it Q(W), a parameter of its own."""

    quantised = True

    def _is_plain(self) -> bool:
        return False

    @property
    def kind(self) -> str:
        """The quantised weight in words."""
        return type(self.layer.weight).__name__

    def dense(self) -> Tensor:
        return self.read(self.layer.weight).T

    def read(self, part: Any) -> Tensor:
        """The numbers (m, n) that a quantised parameter stands for."""
        raise NotImplementedError

    def requantised(self, W: Tensor) -> nn.Parameter:
        """W (m, n) as the layer quantises it."""
        raise Unsupported(f"nothing here can write into a weight that is a {self.kind}; {WAYS_OUT}")

    def codes(self, part: Any) -> Tensor:
        """The whole numbers of a quantised parameter."""
        raise NotImplementedError

    def put(self, name: str, part: nn.Parameter) -> None:
        now = getattr(self.layer, name)
        setattr(self.layer, name, part if now.is_meta or now.device == part.device else part.to(now.device))

    def renew(self, name: str) -> None:
        if name != "weight":  # which is never written in place
            super().renew(name)

    @torch.no_grad()
    def assign(self, W: Tensor | None, bias: Tensor | None) -> None:
        if W is not None:
            before, part = self.dense(), self.part("weight")
            left = self.take(W)
            try:
                check_survived(self.kind, before, W.to(before), left)
            except Exception:
                self.put("weight", part)
                raise
        super().assign(None, bias)

    @torch.no_grad()
    def take(self, W: Tensor) -> Survived:
        before, part = self.dense(), self.part("weight")
        self.put("weight", self.requantised(self.as_stored(W)))
        try:
            after = self.dense()
            check_near(self.kind, W.to(after), after)
            return survived(before, W, after, self.changed(part, self.part("weight")))
        except Exception:
            self.put("weight", part)
            raise

    @torch.no_grad()
    def survives(self, W: Tensor) -> Survived:
        """What would be left of W - W_q, were W (n, m) written."""
        part, new = self.part("weight"), self.requantised(self.as_stored(W))
        return survived(self.dense(), W, self.read(new).T, self.changed(part, new))

    def changed(self, part: Any, other: Any) -> float:
        """The share of codes that differ."""
        return (self.codes(part) != self.codes(other)).double().mean().item()


class Int8Weight(QuantisedWeight):
    """bitsandbytes' Linear8bitLt: rows of codes in -127..127 with a scale each, which the first forward moves away."""

    dtype = torch.float32  # type: ignore[assignment]

    def part(self, name: str) -> Any:
        part: Any = super().part(name)
        if name == "weight" and part.SCB is None:
            part.CB, part.SCB = part.data, self.layer.state.SCB  # the next forward takes them up again
        return part

    def read(self, part: Any) -> Tensor:
        scales = self.layer.state.SCB if part.SCB is None else part.SCB
        return part.data.to(torch.float32) * (scales.to(torch.float32) / 127).unsqueeze(1)

    def requantised(self, W: Tensor) -> Any:
        own = self.layer.weight
        new: Any = type(own)(W.detach().to("cpu", copy=True), requires_grad=False, has_fp16_weights=False)
        return new.to(own.device)

    def codes(self, part: Any) -> Tensor:
        return part.data


class FourBitWeight(QuantisedWeight):
    """bitsandbytes' Linear4bit: NF4 or FP4 codes, two a byte, with a scale a block.

    On some CPUs an evaluation lays the codes out for a kernel that rounds the scales and passes no gradient on, not
    even in training that follows. So layers are held to the common layout.
    """

    def __init__(self, layer: Any):
        super().__init__(layer)
        layer.support_avx512bf16_for_cpu = False
        state = self._state(layer.weight)
        if getattr(state, "packing_format_for_cpu", False):
            from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

            data, state = _convert_weight_packed_for_cpu_inverse(layer.weight.data, state)
            layer.weight.data, layer.weight.quant_state, layer.quant_state = data, state, state

    @property
    def dtype(self) -> torch.dtype:
        return self._state(self.layer.weight).dtype

    def read(self, part: Any) -> Tensor:
        from bitsandbytes import functional

        return functional.dequantize_4bit(part.data, self._state(part))

    def requantised(self, W: Tensor) -> Any:
        own = self.layer.weight
        fields = {k: getattr(own, k) for k in ("blocksize", "compress_statistics", "quant_type", "quant_storage")}
        W = W.detach().to("cpu", self._state(own).dtype, copy=True)
        return type(own)(W, requires_grad=False, **fields).to(own.device)

    def put(self, name: str, part: Any) -> None:
        super().put(name, part)
        if name == "weight":
            self.layer.quant_state = part.quant_state

    def codes(self, part: Any) -> Tensor:
        pairs = part.data.flatten().view(torch.uint8)
        return torch.stack([pairs >> 4, pairs & 15])

    def _state(self, part: Any) -> Any:
        return self.layer.quant_state if part.quant_state is None else part.quant_state


class QuantoWeight(QuantisedWeight):
    """optimum-quanto's QLinear, frozen."""

    def read(self, part: Any) -> Tensor:
        return part.dequantize()

    def requantised(self, W: Tensor) -> nn.Parameter:
        own = self.layer.weight
        self.layer.weight = nn.Parameter(W.to(own.dtype), requires_grad=False)
        try:
            return nn.Parameter(self.layer.qweight, requires_grad=False)
        finally:
            self.layer.weight = own

    def codes(self, part: Any) -> Tensor:
        data = part._data
        return data.unpack() if hasattr(data, "unpack") else data


class TorchaoWeight(QuantisedWeight):
    """torchao's weights: nn.Linear with a tensor of a class of its own."""

    def read(self, part: Any) -> Tensor:
        return part.dequantize()

    def requantised(self, W: Tensor) -> nn.Parameter:
        own = self.layer.weight
        by_kind = {"Int8Tensor": _int8, "IntxUnpackedToInt8Tensor": _intx}
        if (quantise := by_kind.get(self.kind)) is None:
            return super().requantised(W)
        return nn.Parameter(quantise(own, W.to(own.dtype).contiguous()), requires_grad=False)

    def codes(self, part: Any) -> Tensor:
        return part.qdata


def _int8(own: Any, W: Tensor) -> Tensor:
    from torchao.quantization import PerGroup, PerRow, PerTensor

    rows, length = own.block_size[-2:]
    by_row = PerRow() if length == W.shape[1] else PerGroup(length)
    whole = PerTensor() if (rows, length) == tuple(W.shape) else by_row
    kept = ("act_quant_kwargs", "act_quant_scale", "act_quant_zero_point", "act_pre_scale", "reduce_range")
    return type(own).from_hp(W, whole, _mapping(own), **{name: getattr(own, name) for name in kept})


def _intx(own: Any, W: Tensor) -> Tensor:
    kept = {"mapping_type": _mapping(own), "activation_quantization": own.activation_quantization}
    return type(own).from_hp(W, own.block_size, own.target_dtype, **kept)


def _mapping(own: Any) -> Any:
    from torchao.quantization.quant_primitives import MappingType

    skewed = own.zero_point is not None and bool(own.zero_point.any())
    return MappingType.ASYMMETRIC if skewed else MappingType.SYMMETRIC


def quantised(layer: nn.Linear) -> QuantisedWeight | None:
    """The layer as a quantised weight, or None where its weight is a plain one."""
    weight: Any = layer.weight
    name, home = type(weight).__name__, type(weight).__module__
    if name == "Int8Params":
        return None if weight.is_floating_point() else Int8Weight(layer)
    if name == "Params4bit":
        return FourBitWeight(layer)
    if home.startswith("torchao."):
        return TorchaoWeight(layer)
    if home.startswith("optimum.quanto."):
        return QuantoWeight(layer)
    return None
