"""What a module reads where its fused weight of experts was, and multiplies rows by: x W_i is x phi(W_i).

A ``Reading`` answers like the tensor (e, ., .), or like a part or a transpose of it. Products of rows with it are taken
to the tuned layer, whichever way the module goes: expert by expert (``linear``, ``@``), a batch of matrices (``bmm``),
all rows sorted by expert (``grouped_mm``). For any other operation it is the tensor phi(W), built for that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Product = Callable[[Tensor, Tensor], Tensor]  # of rows and the frozen weights


class Route(NamedTuple):
    """The rows start, ..., stop - 1 go to one expert."""

    expert: int
    start: int
    stop: int


class Reading:
    """Of a layer: all matrices, one of them (``at`` a number) or one for each row (``at`` numbers), maybe turned."""

    KNOWN: ClassVar[set[str]] = {
        *("shape", "dtype", "device", "ndim", "is_meta", "is_cuda", "dim", "size", "stride", "data_ptr"),
        *("is_contiguous", "T", "mT", "t", "transpose", "detach", "contiguous"),
    }

    def __init__(self, layer: Any, at: Any = None, turned: bool = False):
        self.layer, self.at, self.turned = layer, at, turned

    def __getattr__(self, name: str) -> Any:
        if name not in self.KNOWN:
            raise AttributeError(
                f"a tuned weight of experts has no {name!r}: it is multiplied by rows, or read by expert"
            )
        return getattr(self.of(self.layer.base_layer.weight), name)

    def __getitem__(self, at: Any) -> Any:
        known = isinstance(at, int) or (isinstance(at, Tensor) and at.dim() < 2 and not at.is_floating_point())
        if self.at is not None or self.turned or not known or getattr(at, "dtype", None) == torch.bool:
            return self.dense()[at]
        return Reading(self.layer, at)

    def of(self, weight: Tensor) -> Tensor:
        """The same part of a tensor (e, ., .)."""
        part = weight if self.at is None else weight[self.at]
        return part.mT if self.turned else part

    def dense(self) -> Tensor:
        """The part of phi(W) itself."""
        adapters = self.layer.working()
        frozen = self.layer.base_layer.weight
        return self.of(self.layer.frozen.as_stored(self.layer.weights(adapters)) if adapters else frozen)

    @property
    def mT(self) -> Reading:
        return Reading(self.layer, self.at, not self.turned)

    T = mT

    def t(self) -> Reading:
        return self.mT

    def transpose(self, a: int, b: int) -> Any:
        dims = self.of(self.layer.base_layer.weight).dim()
        return self.mT if {a % dims, b % dims} == {dims - 2, dims - 1} else self.dense().transpose(a, b)

    def contiguous(self) -> Reading:
        return self

    def detach(self) -> Tensor:
        return self.dense().detach()

    def __matmul__(self, other: Any) -> Any:
        return torch.matmul(self, other)  # type: ignore[arg-type]

    def __rmatmul__(self, other: Any) -> Any:
        return torch.matmul(other, self)  # type: ignore[arg-type]

    @property
    def is_one(self) -> bool:
        return isinstance(self.at, int) or (self.at is not None and self.at.dim() == 0)

    @property
    def takes_rows(self) -> bool:
        """Whether the last two dimensions are (n, m), so that rows stand to the left."""
        return bool(self.layer.base_layer.turned != self.turned)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        met = PRODUCTS.get(func)
        y = None if met is None else met(func, *args, **kwargs)
        return func(*map(_dense, args), **{k: _dense(v) for k, v in kwargs.items()}) if y is None else y


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, Reading) else value


def _linear(func: Any, x: Any, w: Any, bias: Any = None) -> Tensor | None:
    if not isinstance(w, Reading) or isinstance(x, Reading) or w.takes_rows:
        return None
    y = _one(x, w, lambda z, W: func(z, w.of(W)))
    return y if y is None or bias is None else y + bias


def _matmul(func: Any, x: Any, w: Any) -> Tensor | None:
    if isinstance(x, Tensor) and isinstance(w, Reading) and w.takes_rows and w.is_one:
        return _one(x, w, lambda z, W: func(z, w.of(W)))
    return _bmm(func, x, w)


def _one(x: Tensor, w: Reading, product: Product) -> Tensor | None:
    """Rows of one expert."""
    if not w.is_one:
        return None
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = w.layer(rows, [Route(int(w.at), 0, len(rows))], product)
    return y.view(*x.shape[:-1], y.shape[-1])


def _bmm(func: Any, a: Any, b: Any) -> Tensor | None:
    """(k, t, n) rows by k matrices, or k transposed matrices by (k, n, t)."""
    if isinstance(a, Reading):
        if not isinstance(b, Tensor) or b.dim() != 3 or a.takes_rows:
            return None
        y = _batch(b.mT, a, lambda z, W: func(W, z.mT).mT)
        return None if y is None else y.mT
    return _batch(a, b, func) if isinstance(a, Tensor) and a.dim() == 3 and b.takes_rows else None


def _batch(x: Tensor, w: Reading, product: Product) -> Tensor | None:
    k, t, n = x.shape
    if w.at is None:
        ends = torch.arange(1, k + 1) * t
        y = _sorted(x.reshape(k * t, n), ends, w, lambda z, W: product(z.view(k, t, n), w.of(W)).flatten(0, 1))
        return y.view(k, t, -1)
    if w.is_one or len(w.at) != k:
        return None
    order = w.at.argsort(stable=True)
    ids = w.at[order]
    ends = torch.bincount(ids, minlength=len(w.layer)).cumsum(0) * t

    def gathered(z: Tensor, W: Tensor) -> Tensor:
        return product(z.view(k, t, n), Reading(w.layer, ids, w.turned).of(W)).flatten(0, 1)

    y = _sorted(x[order].reshape(k * t, n), ends, w, gathered).view(k, t, -1)
    return y[order.argsort()]


def _grouped(func: Any, x: Any, w: Any, offs: Any = None, **how: Any) -> Tensor | None:
    """Rows sorted by expert, those of expert i up to the i-th offset."""
    if not isinstance(w, Reading) or w.at is not None or offs is None or not w.takes_rows or x.dim() != 2:
        return None
    return _sorted(x, offs, w, lambda z, W: func(z, w.of(W), offs=offs, **how))


def _sorted(x: Tensor, ends: Tensor, w: Reading, product: Product) -> Tensor:
    bounds = pairwise([0, *ends.tolist()])
    y: Tensor = w.layer(x, [Route(i, a, b) for i, (a, b) in enumerate(bounds) if a < b], product)
    return y


PRODUCTS: dict[Any, Callable[..., Tensor | None]] = {
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__), _matmul),
    **dict.fromkeys((torch.bmm, Tensor.bmm), _bmm),
    **dict.fromkeys((getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)), _grouped),
}
