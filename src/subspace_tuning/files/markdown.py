"""Tables in Markdown, and their place in a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from subspace_tuning.errors import BadInput


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> str:
    """A table; the columns from number ``numbers_from`` on are aligned to the right."""
    right = len(header) if numbers_from is None else numbers_from
    rule = ["---" if i < right else "---:" for i in range(len(header))]
    lines = ([cell.replace("|", "\\|") for cell in line] for line in (header, rule, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_table(page: str, made: str, marker: str, name: str) -> str:
    """The page ``name`` with what is made between its two marker lines."""
    parts = page.split(marker)
    if len(parts) != 3:
        raise BadInput(f"{name} holds the line {marker} {len(parts) - 1} times; the table goes between two of them")
    return f"{parts[0]}{marker}\n{made}{marker}{parts[2]}"
