"""docs/reliability.md's table: what was tried on purpose, how often, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subspace_tuning.files.markdown import table

DATA = Path("docs/data/reliability.json")
HEADER = ("what", "tried", "how it ended", "otherwise", "figures")


def reliability_tables(data: dict[str, Any]) -> str:
    """A table for each section, with the command that makes it."""
    about = f"On {data['machine']}, torch {data['torch']}.\n"
    return "\n".join([about, *(_section(name, held) for name, held in data["sections"].items())])


def _section(name: str, held: dict[str, Any]) -> str:
    rows = [(row["what"], row["tried"], *_ends(row["came"]), row["figures"]) for row in held["rows"]]
    counts = "".join(f" --{name} {count}" for name, count in held["counts"].items())
    line = f"python benchmarks/reliability.py {name}{counts} --seed {held['seed']}"
    command = f"`{line}`, {held['seconds'] / 60:.1f} minutes"
    return f"### {name}\n\n{command}\n\n{table(HEADER, rows)}"


def _ends(came: dict[str, int]) -> tuple[str, str]:
    fine = ", ".join(f"{count} {how}" for how, count in came.items() if how != "otherwise")
    return fine, str(came.get("otherwise", 0))
