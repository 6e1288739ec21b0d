"""Labels of methods as tables show them, lora(r=4,alpha=8)+mpc_o, and the rank in them."""

from __future__ import annotations

import re

_RANK = re.compile(r"([(,])r=(\d+)(,|(?=\)))")


def rank(label: str) -> int | None:
    """The rank r; None for a method without one, and for a composition of several."""
    found = {int(r) for _, r, _ in _RANK.findall(label)}
    return found.pop() if len(found) == 1 else None


def without_rank(label: str) -> str:
    """``lora(alpha=8)+mpc_o`` for ``lora(r=4,alpha=8)+mpc_o``."""
    return _RANK.sub(r"\1", label).replace(",)", ")").replace("()", "")
