"""What docs/floor.md says of a GPU, from the JSON of benchmarks/gpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from subspace_tuning.files.markdown import table

MADE = "`python benchmarks/gpu.py > docs/data/gpu.json`"
HEADER = ("contender", "time over the floor", "tokens/s", "share of the card's rate", "saved", "peak MB")


def on_a_card(data: dict[str, Any] | None) -> str:
    """The section; without figures it says that none were taken, and how they are."""
    return "\n## On a GPU\n\n" + (
        "".join(_told(data)) if data else f"No figures were taken on a GPU yet: {MADE} takes them.\n"
    )


def _told(data: dict[str, Any]) -> Iterator[str]:
    rates = data["rate"]
    reached = ", ".join(f"{rate:.0f} in {dtype}" for dtype, rate in rates.items())
    yield f"{data['device']}, torch {data['torch']}; made by {MADE}. "
    yield f"Matrix products reach {reached} 10^12 FLOPs a second.\n"
    laws = data["laws"]
    if "wrong" in laws:
        names = ", ".join(f"`{w['method']}` ({w['dtype']}, {w['off']:.1g})" for w in laws["wrong"]) or "none"
        yield f"Of {laws['methods']} methods, those that compute something else than on the CPU: {names}.\n"
    for how in ("eager", "compiled"):
        if isinstance(data[how], list):
            yield from (_steps(found, how) for found in data[how] if "contenders" in found)
    failed = [name for name, part in data.items() if isinstance(part, dict) and "failed" in part]
    if failed:
        yield f"\nFailed: {', '.join(failed)}.\n"


def _steps(found: dict[str, Any], how: str) -> str:
    s = found["setting"]
    rows = (
        (
            f"{c['name']} (PEFT)" if c["source"] == "peft" else c["name"],
            f"{c['time_ratio']:.2f} ({c['time_low']:.2f}-{c['time_high']:.2f})",
            f"{c['tokens_per_second']:.0f}",
            f"{100 * c['share_of_rate']:.0f} %",
            f"{c['saved_bytes_ratio']:.2f}",
            f"{c['peak_mb']:.0f}",
        )
        for c in found["contenders"]
    )
    size = f"{s['layers']} blocks, batch {s['batch']} x {s['length']}, {s['dtype']}"
    return f"\n{found['shape']}, {how}; {size}.\n\n{table(HEADER, rows)}"
