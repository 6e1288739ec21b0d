"""The same seed, the same bits: twice in a row, in a fresh process, and side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from subspace_tuning import METHODS

from .forks import forked
from .kills import writers
from .sweeps import SMALL, recipe_of, swept
from .training import LORA
from .workplace import TOLD, Asked, Row, Workplace, emptied, held, subspace

BITS = "the same bits"


def same(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Files of two runs beside each other, byte by byte."""
    yield methods(home)
    yield threads(home)
    yield jobs(home)
    for name, writer in writers(home).items():
        row, place, seen = Row(f"{name}, twice", "2 processes"), home.home / "place", []
        for _ in range(2):
            writer.old(emptied(place))
            forked(writer.act(place), place)
            seen.append(held(place))
        _compare(row, *seen)
        yield row


def methods(home: Workplace) -> Row:
    """Each method trained twice for three steps."""
    row = Row("training by each method, twice", f"{len(METHODS)} methods")
    for name in sorted(METHODS):
        fields = {f: 2 for f in ("r", "init_r") if f in getattr(METHODS[name], "__dataclass_fields__", {})}
        seen = []
        for _ in range(2):
            out = emptied(home.home / "twice") / "run"
            values = {
                "method": {"name": name, **fields},
                "max_steps": 3,
                "save_every": "never",
                "evaluate_every": "end",
            }
            ended = forked(subspace("train", home.recipe("twice", out, **values)), home.home)
            seen.append(held(out) if ended.code == 0 else None)
        if seen[0] is None:
            row.came["no adapter that trains on this model alone"] += 1
        else:
            _compare(row, *seen, name)
    return row


def threads(home: Workplace) -> Row:
    """Two fresh processes of the command on one thread, as a fork makes it."""
    row, seen = Row("`subspace train` in a fresh process and in a fork", "1 run"), []
    out = home.home / "fresh" / "run"
    recipe = home.recipe("fresh", out, epochs=2, save_every=2, method=LORA)
    emptied(out.parent)
    forked(subspace("train", recipe), home.home)
    seen.append(held(out))
    emptied(out.parent)
    subprocess.run([sys.executable, "-m", "subspace_tuning", "train", str(recipe)], check=True, capture_output=True)
    seen.append(held(out))
    _compare(row, *seen)
    return row


def jobs(home: Workplace) -> Row:
    """A sweep one run at a time, and two and three at a time."""
    row, seen = Row("a sweep of 12 runs with `--jobs` 1, 2 and 3", "3 sweeps"), []
    for count in (1, 2, 3):
        recipe = recipe_of(home, "jobs", SMALL)
        forked(swept(recipe, count), home.home, limit=600)
        seen.append(held(recipe.with_suffix("") / "final", (*TOLD, "error.txt")))
    for other in seen[1:]:
        _compare(row, seen[0], other)
    return row


def _compare(row: Row, one: dict[str, str], other: dict[str, str], what: str = "") -> None:
    differing = sorted({path for path in one | other if one.get(path) != other.get(path)})
    if differing or not one:
        row.fault(f"{what} {differing[:3] or 'nothing was written'}".strip())
    else:
        row.came[BITS] += 1
