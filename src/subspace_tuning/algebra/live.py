"""Tensors that are read anew at each use.

phi(W, p) is written once and its expression kept, while the parameters behind it train, move, are swapped by sharding
or replaced by a checkpoint. A ``Live`` stands for such a tensor, and functions of torch applied to it give a ``Live``
again: ``torch.relu(p.S + p.d)`` is computed when the expression meets its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Live:
    """A tensor known by how to compute it; ``now()`` does so. Its shape is known from the start."""

    def __init__(self, compute: Callable[[], Tensor], sources: tuple[Any, ...] = (), outline: Tensor | None = None):
        self._compute, self._sources = compute, sources
        self._outline = _meta(compute()) if outline is None else outline
        self.shape = self._outline.shape

    @classmethod
    def of(cls, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Live:
        """func(*args, **kwargs), computed at each use; live arguments may stand in lists too."""
        outline = _outline(func, args, kwargs)
        return cls(lambda: func(*_each(now, args), **kwargs), tuple(_flat(args)), outline)

    def now(self) -> Tensor:
        return self._compute()

    @property
    def requires_grad(self) -> bool:
        if self._sources:
            return any(s.requires_grad for s in self._sources)
        return self._compute().requires_grad

    def dim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return self.shape.numel()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Live:
        return cls.of(func, *args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name in ("T", "mT"):
            return Live.of(getattr, self, name)
        method = None if name.startswith("_") else getattr(Tensor, name, None)
        if not callable(method):
            raise AttributeError(f"a tensor that is read anew at each use has no fixed {name!r}")
        return lambda *args, **kwargs: Live.of(method, self, *args, **kwargs)

    def __add__(self, other: Any) -> Live:
        return Live.of(torch.add, self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Live:
        return Live.of(torch.sub, self, other)

    def __rsub__(self, other: Any) -> Live:
        return Live.of(torch.rsub, self, other)

    def __mul__(self, other: Any) -> Live:
        return Live.of(torch.mul, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Live:
        return Live.of(torch.div, self, other)

    def __neg__(self) -> Live:
        return Live.of(torch.neg, self)

    def __matmul__(self, other: Any) -> Live:
        return Live.of(torch.matmul, self, other)

    def __getitem__(self, key: Any) -> Live:
        return Live.of(lambda t: t[key], self)


def now(value: Any) -> Any:
    """The tensor itself."""
    return value.now() if isinstance(value, Live) else value


class _Form(NamedTuple):
    """A tensor without its numbers."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


NAMED = FunctionType | BuiltinFunctionType | MethodDescriptorType
PLAIN = bool | int | float | str | torch.dtype | None


def _outline(func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
    """func of tensors without numbers. Torch takes its time for it, and a network has many layers of few shapes: what
    functions made of plain values and tensors is remembered by their forms.
    """
    if isinstance(func, NAMED) and getattr(func, "__closure__", None) is None and not kwargs:
        try:
            return _formed(func, torch.get_default_dtype(), *map(_form, args)).empty()
        except TypeError:
            pass
    return func(*_each(_meta, args), **kwargs)


def _form(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return tuple(map(_form, value))
    outline = value._outline if isinstance(value, Live) else value
    if type(outline) is not Tensor:
        raise TypeError(f"{type(value).__name__} has no form that could be compared")
    return _Form(outline.shape, outline.stride(), outline.dtype)


@lru_cache(maxsize=1024, typed=True)  # 1 and 1.0 are two numbers to torch
def _formed(func: Callable[..., Tensor], default: torch.dtype, *forms: Any) -> _Form:
    return _form(func(*_each(lambda form: form.empty() if isinstance(form, _Form) else form, forms)))


def _meta(value: Any) -> Any:
    if isinstance(value, Live):
        return value._outline
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def _each(f: Callable[[Any], Any], args: Any) -> list[Any]:
    return [[f(b) for b in a] if isinstance(a, list | tuple) and not isinstance(a, _Form) else f(a) for a in args]


def _flat(args: Any) -> list[Any]:
    flat = [b for a in args for b in (a if isinstance(a, list | tuple) else (a,))]
    return [a for a in flat if isinstance(a, Live | Tensor)]
