"""The registered methods as rows of a table: everything said in it comes from the methods themselves, or is tried out.

What a method can do is probed on a small random weight: whether phi(W) - W has exact factors, so that the trained
adapter is a plain LoRA; and whether phi is computed and trained when only the frozen layer's own forward reads W, so
that W may be quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.algebra import Live, Weight
from subspace_tuning.method.method import Method
from subspace_tuning.method.parameters import Params, Start
from subspace_tuning.method.registry import METHODS

CATEGORIES = ("reconstruction", "extension", "combination")
SMALL = {"r": 2, "init_r": 3, "b": 8, "directions": 2}  # ranks and sizes that leave room in the probe's weight
N, M = 48, 40


@dataclass(frozen=True)
class Entry:
    name: str
    category: str
    mode: str
    equation: str
    parameters: str
    sits_on: str
    mergeable: bool
    lora_export: bool  # the trained adapter is exactly a LoRA
    quantised_base: bool  # trains on a weight that only its layer's own forward can read
    on_step: bool  # acts between steps of training
    calibration: list[str]  # what its start asks of the data
    paper: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, name: str, method: type[Method]) -> Entry:
        defaults = {f.name: None if f.default is MISSING else f.default for f in fields(method)}
        plain = method()
        return cls(
            name,
            method.category,
            method.mode,
            method.equation(),
            method.formula,
            method.sits_on,
            bool(method.mergeable),
            _exports(plain.with_fields(**SMALL)),
            by_forward_alone(plain),
            plain.on_step,
            list(plain.calibration),
            method.paper,
            defaults,
        )

    def to_data(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def abilities(self) -> list[str]:
        """What it can do and what it asks for, in words."""
        told = {
            "merges": self.mergeable,
            "LoRA export": self.lora_export,
            "quantised base": self.quantised_base,
            "on-step": self.on_step,
            f"calibration by {', '.join(self.calibration)}": bool(self.calibration),
        }
        return [words for words, holds in told.items() if holds]


def catalogue() -> list[Entry]:
    """Reconstructions by mode, then extensions, then combinations; within these by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        entries = [Entry.of(name, method) for name, method in METHODS.items()]
    return sorted(entries, key=lambda e: (CATEGORIES.index(e.category), e.mode, e.name))


class _OwnForwardOnly(Weight):
    """A weight that can be multiplied and not be read, as a quantised one."""

    def dense(self) -> Tensor:
        raise RuntimeError("W was read")


def _exports(method: Method) -> bool:
    if method.sits_on != "weight" or not method.mergeable:
        return False
    W = Weight(torch.randn(N, M))
    return method.phi(W, _params(method, W)).delta_factors() is not None


def by_forward_alone(method: Method) -> bool:
    """Whether phi is computed and trained when only the frozen layer's own forward reads W."""
    if method.sits_on != "weight":
        return True
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        method, W = method.with_fields(**SMALL), Weight(torch.randn(N, M))
        p = _params(method, W)
        try:
            E = method.phi(_OwnForwardOnly(W.dense()), p)
            E.apply(torch.randn(4 * N, N)).sum().backward()
        except RuntimeError as error:
            if str(error) != "W was read":
                raise
            return False
    return True


def _params(method: Method, W: Weight) -> Params:
    """Parameters away from their start, constants and stored numbers, as a layer would hold them."""
    constants = method.constants(W)

    def started(start: Start) -> Tensor:
        value = torch.empty(start.shape, dtype=start.dtype or torch.float32)
        start.fill(value, constants)
        return value

    held = dict(constants)
    held |= {name: started(start) for name, start in method.stored(N, M).items()}
    for name, start in method.parameters(N, M).items():
        value = started(start)
        held[name] = value.add_(torch.randn_like(value), alpha=0.1).requires_grad_()
    read: Callable[[str], Tensor] = held.__getitem__
    return Params({name: Live(partial(read, name)) for name in held}, training=True)
