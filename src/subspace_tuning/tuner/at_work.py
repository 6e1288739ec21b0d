"""How much of each adapter is at work on one layer: its strength t."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from subspace_tuning.method.strength import check_dial


class Strengths:
    """Adapter -> t: what it was set to, times what callers scale it by meanwhile."""

    def __init__(self) -> None:
        self._set: dict[str, float] = {}
        self._meanwhile: dict[str, list[float]] = {}

    def of(self, adapter: str) -> float:
        if not self._set and not self._meanwhile:
            return 1.0
        return self._set.get(adapter, 1.0) * math.prod(self._meanwhile.get(adapter, ()))

    def set(self, adapter: str, t: float) -> None:
        self._set[adapter] = checked(t)
        self._meanwhile.pop(adapter, None)

    def scale(self, adapters: Iterable[str], by: float) -> None:
        """Until ``unscale``."""
        for adapter in adapters:
            self._meanwhile.setdefault(adapter, []).append(checked(by))

    def unscale(self, adapters: Iterable[str], by: float | None = None) -> None:
        """Take a scale back, leaving what was before exactly; without one, all, and what was set too."""
        for adapter in adapters:
            if by is None:
                self.forget(adapter)
            elif by in (scales := self._meanwhile.setdefault(adapter, [])):
                scales.remove(by)
            else:
                scales.append(1 / checked(by))

    def forget(self, adapter: str) -> None:
        self._set.pop(adapter, None)
        self._meanwhile.pop(adapter, None)


def checked(t: float) -> float:
    """A strength. Raises ValueError where it is no number."""
    if isinstance(t, bool) or not isinstance(t, int | float) or not math.isfinite(t):
        raise ValueError(f"a strength is a number (0: the base, 1: the adapter as it was trained), got {t!r}")
    return float(t)


class Dial:
    """The part of a tuned layer that sets strengths."""

    def __init__(self) -> None:
        self.strengths = Strengths()

    def set_scale(self: Any, adapter: str, scale: float) -> None:
        """Set an adapter's strength, where the layer has it; PEFT's and diffusers' word (see strength.py)."""
        if adapter in self.methods:
            with self._at_other_strength([adapter]):
                self.strengths.set(adapter, scale)

    def scale_layer(self: Any, scale: float) -> None:
        """Multiply the strengths of all active adapters, until ``unscale_layer``."""
        with self._at_other_strength(active := self._active_here()):
            self.strengths.scale(active, scale)

    def unscale_layer(self: Any, scale: float | None = None) -> None:
        """Take back a ``scale_layer``, exactly; without its number all of them, and what was set."""
        with self._at_other_strength(active := self._active_here()):
            self.strengths.unscale(active, scale)

    def _active_here(self: Any) -> list[str]:
        return [a for a in self.active_adapters if a in self.methods]

    @contextmanager
    def _at_other_strength(self: Any, adapters: list[str]) -> Iterator[None]:
        """What is merged is merged anew at the strengths that these adapters are given within this."""
        for adapter in adapters:
            check_dial(self.methods[adapter])
        before = [self.strengths.of(a) for a in adapters]
        yield
        if before == [self.strengths.of(a) for a in adapters]:
            return
        if names := list(self.merged_adapters):
            self.unmerge()
            self.merge(adapter_names=names)
        self._build()
