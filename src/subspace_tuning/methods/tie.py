"""Which layers share a parameter, where a method leaves that to a field ``tie``."""

from typing import Any

TIES = ("none", "shape", "kind", "model")


def check_tie(method: Any) -> None:
    """Raise ValueError for a word that names no layers."""
    if method.tie not in TIES:
        raise ValueError(f"{method.name}: tie is one of {', '.join(TIES)}, got {method.tie!r}")


def tied(name: str, tie: str) -> dict[str, str]:
    """``shared`` of a method for its parameter ``name``."""
    return {} if tie == "none" else {name: tie}
