"""What fits came to: of a method on a layer, on all layers, and of all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from subspace_tuning.method import Method
from subspace_tuning.theory.places import Places


@dataclass(frozen=True)
class LayerFit:
    """One method on one layer; ``skipped`` says why it has no fit there, and the numbers are then zero."""

    whole: float = 0.0  # ||W* - W||^2
    left: float = 0.0  # ||W* - phi(W)||^2
    parameters: int = 0
    scale: float = 1.0  # s* (eq. 20)
    r: int | None = None
    skipped: str = ""

    @classmethod
    def of(cls, data: dict[str, Any]) -> LayerFit:
        """From plain data. Raises TypeError or KeyError where it is something else."""
        return cls(**{name: _KINDS[name](value) for name, value in data.items()})

    @property
    def captured_energy(self) -> float:
        return 1 - self.left / self.whole if self.whole else 1.0


@dataclass(frozen=True)
class Family:
    """One method on all layers; ``total`` numbers of the base model are what per mille refers to."""

    method: Method
    layers: dict[str, LayerFit]
    total: int

    @property
    def fitted(self) -> dict[str, LayerFit]:
        return {name: fit for name, fit in self.layers.items() if not fit.skipped}

    @property
    def captured_energy(self) -> float:
        whole = sum(fit.whole for fit in self.fitted.values())
        return 1 - sum(fit.left for fit in self.fitted.values()) / whole if whole else 1.0

    @property
    def parameters(self) -> int:
        return sum(fit.parameters for fit in self.fitted.values())

    @property
    def permille(self) -> float:
        return 1000 * self.parameters / self.total

    @property
    def per_parameter(self) -> float:
        return self.captured_energy / self.parameters if self.parameters else 0.0

    @property
    def scale(self) -> float:
        """s* of the layers, each weighted by its ||W* - W||^2."""
        whole = sum(fit.whole for fit in self.fitted.values())
        return sum(fit.scale * fit.whole for fit in self.fitted.values()) / whole if whole else 1.0

    def to_data(self) -> dict[str, Any]:
        layers = {}
        for name, f in self.fitted.items():
            layers[name] = {"captured_energy": f.captured_energy, "parameters": f.parameters, "scale": f.scale}
            layers[name] |= {} if f.r is None else {"r": f.r}
        return {
            "name": self.method.name,
            "method": self.method.describe(),
            "captured_energy": self.captured_energy,
            "parameters": self.parameters,
            "permille": self.permille,
            "captured_energy_per_parameter": self.per_parameter,
            "scale": self.scale,
            "layers": layers,
            "skipped": {name: f.skipped for name, f in self.layers.items() if f.skipped},
        }


@dataclass(frozen=True)
class Report:
    families: list[Family]
    places: Places
    unchanged: list[str]  # layers in which W* = W
    refused: dict[str, str]  # method -> why it cannot be fitted at all
    seconds: dict[str, float]  # by method, as described, of what was not known from before

    def to_data(self) -> dict[str, Any]:
        return {
            "families": [family.to_data() for family in self.families],
            "tied": self.places.tied,
            "missing": self.places.missing,
            "unchanged": self.unchanged,
            "left_out": self.places.left_out,
            "refused": self.refused,
            "seconds": self.seconds,
        }


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


_KINDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("whole", "left", "parameters", "scale"), _number),
    "r": lambda value: None if value is None else int(_number(value)),
    "skipped": str,
}
