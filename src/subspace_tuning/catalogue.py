"""The registered methods as rows of a table: everything said in it comes from the methods themselves."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from subspace_tuning.method import Method
from subspace_tuning.registry import METHODS

CATEGORIES = ("reconstruction", "extension", "combination")


@dataclass(frozen=True)
class Entry:
    name: str
    category: str
    mode: str
    equation: str
    parameters: str
    sits_on: str
    mergeable: bool
    paper: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, name: str, method: type[Method]) -> Entry:
        defaults = {f.name: None if f.default is MISSING else f.default for f in fields(method)}
        return cls(
            name,
            method.category,
            method.mode,
            method.equation(),
            method.formula,
            method.sits_on,
            bool(method.mergeable),
            method.paper,
            defaults,
        )

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


def catalogue() -> list[Entry]:
    """Reconstructions by mode, then extensions, then combinations; within these by name."""
    entries = [Entry.of(name, method) for name, method in METHODS.items()]
    return sorted(entries, key=lambda e: (CATEGORIES.index(e.category), e.mode, e.name))
