"""How near the floor each method is to come, and what stands between."""

from __future__ import annotations

from typing import NamedTuple


class Reach(NamedTuple):
    """Methods of one kind, and the ratios to the floor that they are to stay under."""

    names: tuple[str, ...]
    time: float
    saved: float
    of_peer: tuple[str, float] | None = None  # and that share of the time of PEFT's method of that name


REACH = (
    Reach(("ssl", "ssb", "ia3", "bitfit"), 1.05, 0.90),
    Reach(
        ("lora", "trilora", "flora", "moslora", "pissa", "milora", "lora_xs", "lora+mpc_o"), 1.10, 0.90, ("lora", 0.95)
    ),
    Reach(("dora", "spectral"), 1.20, 1.00, ("dora", 0.80)),
    Reach(("vera", "parallel", "houlsby", "pfeiffer"), 1.15, 1.10),
    Reach(("sam_parser", "svdiff", "svft"), 1.70, 1.30),
)


def reach_of(name: str) -> Reach | None:
    return next((reach for reach in REACH if name in reach.names), None)
