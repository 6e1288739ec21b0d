"""What a type of PEFT's is in our words, both ways: one entry a type, for the import and for the export."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from subspace_tuning.errors import BadInput
from subspace_tuning.method import Method

Tensors = Mapping[str, Tensor]
Value = TypeVar("Value")


class Unequal(BadInput):
    """Raised where no type of PEFT's computes what a method with these fields does."""


class Source(NamedTuple):
    """An adapter of PEFT's: the plain data of its config, and its weights where they are at hand."""

    config: Mapping[str, Any]
    weights: Tensors | None = None


def _as_they_are(method: Method) -> Mapping[str, str]:
    return {}


class Kind(NamedTuple):
    """One of PEFT's types.

    PEFT holds factors as torch holds weights, (out, in); ours are written as in the equations, (in, out). Layers that
    keep W the other way round (``fan_in_fan_out``) make no difference to that.
    """

    peft_type: str
    read: Callable[[Source], dict[str, Any]]  # keywords of SubspaceConfig
    fields: frozenset[str]  # that ``read`` looks at, or that only say how training began and went on
    names: Mapping[str, str]  # PEFT's name of a tensor -> ours
    prefix: str  # of the names of PEFT's tensors
    rewrite: Callable[[str, Tensor, Method], Tensor]  # our name, PEFT's tensor, our method at its place -> our tensor
    methods: tuple[type[Method], ...]  # of ours that it equals
    says: Callable[[Mapping[str, Method]], dict[str, Any]]  # module -> method: keywords of PEFT's config, or Unequal
    back: Callable[[str, Tensor, Method], Tensor]  # our name, tensor and method -> PEFT's tensor, but for its shape
    dropped: frozenset[str] = frozenset()  # names of tensors that follow from the config
    whole: Callable[[Method], Mapping[str, str]] = _as_they_are  # parameter -> what PEFT holds, if W leads from it
    layers: tuple[type[nn.Module], ...] = ()  # on which the two are equal, where that is not all that PEFT takes
    prepared: Callable[[Source], Tensors] | None = None  # tensors -> those that the names are of, where these follow


def turned(name: str, t: Tensor, method: Method) -> Tensor:
    """(out, in, ...) -> (in ..., out); vectors lie alike."""
    return t.flatten(1).T if t.dim() > 1 else t


def back(name: str, t: Tensor, method: Method) -> Tensor:
    """(in, out) -> (out, in)."""
    return t.T if t.dim() == 2 else t


def as_it_is(name: str, t: Tensor, method: Method) -> Tensor:
    """Where both lie alike."""
    return t


def ranks(methods: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """The largest rank, and by a pattern for its name that of each module with another one."""
    held = {name: method.r for name, method in methods.items()}
    return max(held.values()), _others(held, max(held.values()))


def scales(methods: Mapping[str, Any], alpha: Callable[[Any], float]) -> tuple[float, dict[str, float]]:
    """An alpha, and by a pattern for its name that of each module with another one."""
    held = {name: alpha(method) for name, method in methods.items()}
    first = next(iter(held.values()))
    return first, _others(held, first)


def _others(held: Mapping[str, Value], usual: Value) -> dict[str, Value]:
    """PEFT takes the first pattern that is the end of a name: names that end in others come before these."""
    names = sorted(held, key=lambda name: (-len(name), name))
    return {re.escape(name): held[name] for name in names if held[name] != usual}
