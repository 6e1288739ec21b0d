"""Linear layers of which nothing is known but their forward: W is what that multiplies rows with, whatever is stored.

GPTQ's, AWQ's, HQQ's and others' are among them, and any that is made tomorrow. A method that needs only x W asks the
forward for it. Where W itself is asked for, it is I W, and a product of other rows with it must be the layer's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspace_tuning.algebra.precision import plus
from subspace_tuning.weights.layer import REAL, Unsupported
from subspace_tuning.weights.quantised import QuantisedWeight
from subspace_tuning.weights.written import WAYS_OUT

BESIDE = ("scale", "zero", "absmax", "codebook")  # in names of tensors that a weight of codes comes with
NEAR = 0.02  # of a product: rounding of rows to eight bits takes no more
TRIED, ROWS = 4, 512  # rows in a trial, and of I at once
_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class OwnForward(QuantisedWeight):
    """x W by the layer's forward, W as I W."""

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    @property
    def stored(self) -> Tensor:
        return next(_tensors(self.layer), torch.empty(0))

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows that it takes."""
        said = getattr(self.layer, "compute_dtype", None)
        own = [t.dtype for t in _tensors(self.layer) if t.dtype in REAL]
        return said if said in REAL else own[0] if own else torch.get_default_dtype()

    @torch.no_grad()
    def dense(self) -> Tensor:
        n, where = self.shape[0], self.stored.device
        if where.type == "meta":
            return torch.empty(self.shape, dtype=self.dtype, device=where)
        for dtype in dict.fromkeys([self.dtype, torch.float32, torch.bfloat16, torch.float16]):
            rows = torch.eye(n, dtype=dtype, device=where).split(ROWS)
            try:
                W = torch.cat([self._times(x) for x in rows])
                x = _rows(n, dtype, where)
                as_read, own = x @ W, self._times(x)
            except Exception as error:  # whatever a kernel says of rows, a device or a precision that it does not take
                why = f"its forward does not run here ({str(error).splitlines()[0] if str(error) else error!r})"
                continue
            if _near(as_read, own):
                return W
            why = "its forward is not the product with a matrix"
        raise Unsupported(
            f"the numbers of the weight of {self.kind} are asked for, and nothing here can read them: {why}; take a "
            "method that needs only x W, such as lora or ssb, or load the base model in 16 or 32 bits"
        )

    @torch.no_grad()
    def check(self) -> None:
        """Raise Unsupported where the forward answers, and not with a product of rows with a matrix."""
        if self.stored.is_meta:
            return
        x = _rows(self.shape[0], self.dtype, self.stored.device)
        try:
            y, at_once = self._times(x), self._times(x.sum(0, keepdim=True))
        except Unsupported:
            raise
        except Exception:  # what it needs may come later: another device, another precision
            return
        if not _near(y.sum(0, keepdim=True), at_once):
            raise Unsupported(f"{self.kind} does not multiply its rows with a matrix; leave it out")

    def _times(self, x: Tensor) -> Tensor:
        y, b = self.forward(x), self.own_bias
        if not isinstance(y, Tensor) or y.shape != (len(x), self.shape[1]):
            raise Unsupported(f"{self.kind} does not take rows to rows of {self.shape[1]} numbers; leave it out")
        return y if b is None else plus(y, -b)

    def requantised(self, W: Tensor) -> nn.Parameter:
        raise Unsupported(f"nothing here can write into the weight of {self.kind}; {WAYS_OUT}")

    def part(self, name: str) -> Any:
        return self.stored if name == "weight" else super().part(name)

    def put(self, name: str, part: Any) -> None:
        if name != "weight":  # which is never written
            super().put(name, part)


def says_linear(layer: Any) -> bool:
    """Whether a layer without a class that is known says that it takes n features to m."""
    sizes = (getattr(layer, name, None) for name in ("in_features", "out_features"))
    return all(isinstance(size, int) for size in sizes) and not any(True for _ in layer.children())


def stored_otherwise(layer: nn.Linear) -> bool:
    """Whether what a linear layer keeps as its weight is not W: codes, a weight beside scales, another product."""
    if layer.weight.dtype not in REAL:
        return True
    names = (name for name, _ in chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False)))
    if any(word in name for name in names for word in BESIDE):
        return True
    return type(layer).forward is not nn.Linear.forward and not _multiplies_with_it(layer)


def check_stored(layer: Any) -> None:
    """Raise Unsupported where a layer that is none of the linear ones keeps codes for its weight."""
    if layer.weight.dtype not in REAL:
        kept = str(layer.weight.dtype).removeprefix("torch.")
        raise Unsupported(
            f"{type(layer).__name__} keeps its weight as {kept}, which nothing here reads; leave it out, or load the "
            "base model in 16 or 32 bits"
        )


@torch.no_grad()
def _multiplies_with_it(layer: nn.Linear) -> bool:
    """Whether a linear layer with a forward of its own multiplies rows with its weight; tried once."""
    if layer.weight.is_meta or type(layer.weight).__name__ == "Int8Params":  # in real numbers until it is moved
        return True
    if layer not in _known:
        x = _rows(layer.in_features, layer.weight.dtype, layer.weight.device)
        try:
            _known[layer] = _near(layer(x), F.linear(x, layer.weight, layer.bias))
        except Exception:  # whatever a kernel says
            _known[layer] = False
    return _known[layer]


def _rows(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(TRIED, n, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _near(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    a, b = a.to(torch.float32), b.to(torch.float32)
    return bool((a - b).norm() <= NEAR * b.norm())


def _tensors(layer: nn.Module) -> Iterator[Tensor]:
    """What a layer keeps: parameters, buffers, and tensors that are neither."""
    yield from layer.parameters()
    yield from layer.buffers()
    yield from (value for value in vars(layer).values() if isinstance(value, Tensor))
