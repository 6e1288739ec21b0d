"""nn.Linear with a weight in 8-bit floating point: W = codes * scales, one for all, for each output or for a block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.weights.quantised import QuantisedWeight

SCALES = {  # transformers' classes, and how they call the scales that codes are multiplied with
    "FP8Linear": "weight_scale_inv",
    "FbgemmFp8Linear": "weight_scale",
    "CompressedTensorsFP8Linear": "weight_scale",
}


class ScaledWeight(QuantisedWeight):
    """W (m, n) = codes * scales, in single precision. What is written gets scales of its own, laid out as before."""

    dtype = torch.float32  # type: ignore[assignment]

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    def part(self, name: str) -> Any:
        part: Any = super().part(name)
        if name == "weight":
            part.scales = getattr(self.layer, self._scales)
        return part

    def put(self, name: str, part: Any) -> None:
        super().put(name, part)
        if name == "weight":
            setattr(self.layer, self._scales, part.scales)

    def read(self, part: Any) -> Tensor:
        scales = getattr(part, "scales", getattr(self.layer, self._scales))
        return part.detach().to(torch.float32) * self._spread(scales)

    def requantised(self, W: Tensor) -> Any:
        own, held = self.layer.weight, getattr(self.layer, self._scales)
        W, limit = W.detach().to(own.device, torch.float32), torch.finfo(own.dtype).max
        scales = (self._largest(W.abs(), held) / limit).clamp_min(torch.finfo(torch.float32).tiny)
        if held.dtype == torch.float8_e8m0fnu:  # powers of two
            scales = scales.log2().ceil().exp2()
        scales = nn.Parameter(scales.view(held.shape).to(held.dtype), requires_grad=False)
        codes = (W / self._spread(scales)).clamp(-limit, limit).to(own.dtype)
        part: Any = nn.Parameter(codes, requires_grad=False)
        part.scales = scales
        return part

    def codes(self, part: Any) -> Tensor:
        return part.detach().view(torch.uint8)

    @property
    def _scales(self) -> str:
        return SCALES[type(self.layer).__name__]

    @property
    def _block(self) -> tuple[int, int]:
        """How many outputs and inputs share a scale."""
        n, m = self.shape
        scales = getattr(self.layer, self._scales)
        if scales.numel() == 1:
            return m, n
        b, a = getattr(self.layer, "block_size", None) or (1, n)
        return b, a

    def _spread(self, scales: Tensor) -> Tensor:
        """(m, n): the scale of each number."""
        (n, m), (b, a) = self.shape, self._block
        grid = scales.detach().to(torch.float32).reshape(-(-m // b), -(-n // a))
        return grid.repeat_interleave(b, 0)[:m].repeat_interleave(a, 1)[:, :n]

    def _largest(self, sizes: Tensor, scales: Tensor) -> Tensor:
        """The largest of what shares a scale."""
        (n, m), (b, a) = self.shape, self._block
        filled = nn.functional.pad(sizes, (0, -n % a, 0, -m % b))
        return filled.unflatten(1, (-1, a)).unflatten(0, (-1, b)).amax((1, 3)).view(scales.shape)


def scaled(layer: Any) -> ScaledWeight | None:
    """A layer of transformers' whose weight is in 8-bit floating point, or None."""
    known = type(layer).__name__ in SCALES and type(layer).__module__.startswith("transformers.")
    weight = getattr(layer, "weight", None)
    eight = isinstance(weight, Tensor) and weight.is_floating_point() and weight.element_size() == 1
    return ScaledWeight(layer) if known and eight else None
