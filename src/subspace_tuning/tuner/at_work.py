"""How much of each adapter is at work on one layer: its strength t."""

from __future__ import annotations

import math
from collections.abc import Iterable


class Strengths:
    """Adapter -> t: what it was set to, times what callers scale it by meanwhile."""

    def __init__(self) -> None:
        self._set: dict[str, float] = {}
        self._meanwhile: dict[str, list[float]] = {}

    def of(self, adapter: str) -> float:
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
