"""The modules that a config names, beside those that a model has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from subspace_tuning.structure.fused import slices
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.patterns import ENDING, KEPT
from subspace_tuning.weights.experts import with_experts

HEADS = {"classifier", "score"}  # that PEFT adds to classifiers' modules_to_save, where a model has them


class Unmatched(UserWarning):
    """A name beside others that matches nothing."""


class Names:
    """What a config names, as it was given, and the names of a model's modules."""

    def __init__(self, model: nn.Module, config: SubspaceConfig):
        self.modules = [*(name for name, _ in with_experts(model)), *slices(model)]
        self.what = type(model).__name__
        self.targets, self.excluded = _list(config.target_modules), _list(config.exclude_modules)
        self.kept = [name for name in config.modules_to_save or [] if name not in HEADS]
        layers = config.layers_to_transform
        self.layers = [layers] if isinstance(layers, int) else list(layers or [])
        self.patterns = {key: list(getattr(config, key)) for key in ("rank_pattern", "alpha_pattern", "method_pattern")}

    def lost(self, seats: Iterable[str]) -> str | None:
        """What matches none of the modules that the method sits on (or the model has), in a sentence."""
        seats = list(seats)
        told = [
            self._lost("target_modules", self.targets, seats, _ends),
            self._lost("exclude_modules", self.excluded, self.modules, _ends),
            self._lost("modules_to_save", self.kept, self.modules, _matches(KEPT)),
            self._lost("layers_to_transform", self.layers, seats, lambda layer, name: str(layer) in name.split(".")),
            *(self._lost(key, given, seats, _matches(ENDING)) for key, given in self.patterns.items()),
        ]
        return next((sentence for sentence in told if sentence), None)

    def _lost(self, key: str, given: list[Any], names: list[str], fits: Callable[[Any, str], bool]) -> str | None:
        lost = [one for one in given if not any(fits(one, name) for name in names)]
        if not lost:
            return None
        some = names[-1] if names else ""
        where = f"module of {self.what}" if names is self.modules else f"of the modules of {self.what} that are adapted"
        told = f"{key}: {', '.join(map(repr, lost))} matches no {where}, which are called like {some!r}"
        return f"{told}; correct or remove it"


def _list(names: Any) -> list[str]:
    """Names one by one; none where one expression says them all."""
    return [] if names is None or isinstance(names, str) else sorted(names)


def _ends(given: str, name: str) -> bool:
    return name == given or name.endswith(f".{given}")


def _matches(form: str) -> Callable[[str, str], bool]:
    return lambda given, name: re.match(form.format(given), name) is not None
