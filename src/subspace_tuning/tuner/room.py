"""Weights that are too small for a method as it was asked for: a smaller rank there, or none of it."""

from __future__ import annotations

import re
import warnings
from typing import Any

from subspace_tuning.errors import few
from subspace_tuning.method import Method
from subspace_tuning.tuner.layer import SubspaceLayer


class Room:
    """What became of the method on the modules of a model, one after the other.

    named: whether the person named the modules, so that one of them without a seat is an error and not left out.
    """

    def __init__(self) -> None:
        self.named = True
        self.seats = 0
        self.smaller: dict[str, Method] = {}
        self.without: dict[str, str] = {}  # module -> why

    def taken(self, asked: Method, layer: SubspaceLayer, module: str) -> Method | None:
        """The method as it finds room on a layer, or None. Raises ValueError where a named module has no room."""
        n, m = layer.frozen.shape
        try:
            method = asked.fitted(n, m)
            method.check(n, m)
        except ValueError as error:
            if self.named:
                raise
            self.without[module] = str(error)
            return None
        if method != asked:
            self.smaller[module] = method
        self.seats += 1
        return method

    def tell(self, config: Any) -> None:
        """Warn of what is otherwise than asked for, and exclude what is left out for good.

        Raises ValueError where nothing is left.
        """
        if self.without and not self.seats:
            module, why = next(iter(self.without.items()))
            raise ValueError(f"{module}: {why}")
        if self.smaller:
            first = next(iter(self.smaller.values()))
            warnings.warn(
                f"the rank or size is more than {few(self.smaller)} allow; there it is {first.describe()}",
                stacklevel=2,
            )
        if self.without:
            why = next(iter(self.without.values()))
            warnings.warn(f"left out: {few(self.without)}, which the method finds no room on ({why})", stacklevel=2)
            said = config.exclude_modules
            if isinstance(said, str):
                config.exclude_modules = "|".join([f"(?:{said})", *map(re.escape, self.without)])
            else:
                config.exclude_modules = {*(said or ()), *self.without}
