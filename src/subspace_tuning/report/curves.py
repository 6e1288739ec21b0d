"""Learning curves of thousands of runs in little room: thinned, rounded, steps that runs share written once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

KEPT = 20  # points of a curve
LOSS, SCORE = "loss", "score"


def fold(files: Iterable[tuple[Path, str]]) -> dict[str, Any]:
    """From (metrics.jsonl, name of the metric) of each run: ``steps``, and by kind of curve (number of steps, values).

    A run without a curve of a kind has None there.
    """
    steps: dict[tuple[int, ...], int] = {}
    told: dict[str, list[Any]] = {LOSS: [], SCORE: []}
    for path, metric in files:
        for kind, points in read(path, metric).items():
            if not points:
                told[kind].append(None)
                continue
            at, values = zip(*points, strict=True)
            told[kind].append([steps.setdefault(at, len(steps)), [float(f"{v:.3g}") for v in values]])
    return {"steps": list(steps), **told}


def read(path: Path, metric: str) -> dict[str, list[tuple[int, float]]]:
    """The (step, training loss) and (step, score) of a run's metrics.jsonl, thinned; a line cut off is left out."""
    found: dict[str, list[tuple[int, float]]] = {LOSS: [], SCORE: []}
    names = {"loss": LOSS, f"eval_{metric}": SCORE}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        try:
            values = json.loads(line)
            for name, kind in names.items():
                if name in values:
                    found[kind].append((int(values["step"]), float(values[name])))
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    return {kind: thin(points) for kind, points in found.items()}


def thin(points: list[tuple[int, float]], kept: int = KEPT) -> list[tuple[int, float]]:
    """At most ``kept`` points: means over stretches of equal length, each at its last step."""
    count = len(points)
    if count <= kept:
        return points
    edges = [count * i // kept for i in range(kept + 1)]
    parts = (points[a:b] for a, b in pairwise(edges))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
