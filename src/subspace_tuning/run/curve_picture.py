"""Scores along the strength of a method, for the eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from subspace_tuning.files.figure import save

COLOURS = ("#0b7285", "#c2410c", "#6d28d9", "#374151")


def draw(ts: Sequence[float], scores: Mapping[str, Sequence[float]], best: float, path: Path) -> None:
    """Save path.png and path.svg: a line a score, the best strength marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, values) in enumerate(scores.items()):
        colour, style = COLOURS[i % len(COLOURS)], "-" if i == 0 else "--"
        axes.plot(ts, values, style, marker="o", markersize=4, color=colour, label=name.replace("_", " "))
    axes.axvline(best, color="#9ca3af", linewidth=0.8, zorder=0)
    axes.annotate(f"t = {best:g}", (best, 1), (3, -9), xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set_xlabel("strength t: the base at 0, as it was trained at 1")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8, zorder=0)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)
