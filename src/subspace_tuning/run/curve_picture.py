"""Scores along the strength of a method, for the eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from subspace_tuning.files.figure import save

COLOURS = ("#0b7285", "#c2410c", "#6d28d9", "#374151")


def draw(
    ts: Sequence[float],
    target: Mapping[str, Sequence[float]],
    kept: Mapping[str, Sequence[float]],
    less: Sequence[str],
    best: float,
    path: Path,
) -> None:
    """Save path.png and path.svg: the target above, what was kept below, better always upwards, the best t marked."""
    from matplotlib.figure import Figure

    each = [target, *({name: values} for name, values in kept.items())]
    figure = Figure(figsize=(6.4, 2 + 2 * len(each)), layout="constrained")
    rows = figure.subplots(len(each), sharex=True, squeeze=False)[:, 0]
    for i, (axes, scores) in enumerate(zip(rows, each, strict=True)):
        for name, values in scores.items():
            said = name.replace("_", " ") + (", kept" if i else "")
            axes.plot(ts, values, "--" if i else "-", marker="o", markersize=4, color=COLOURS[i % len(COLOURS)])
            axes.set_title(said + (" (less is better, upwards)" if name in less else ""), fontsize=9, loc="left")
            if name in less:
                axes.invert_yaxis()
        axes.axvline(best, color="#9ca3af", linewidth=0.8, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8, zorder=0)
        axes.margins(y=0.15)
    rows[0].annotate(
        f"t = {best:g}", (best, 1), (3, -9), xycoords=("data", "axes fraction"), textcoords="offset points"
    )
    rows[-1].set_xlabel("strength t: the base at 0, as it was trained at 1")
    rows[-1].xaxis.set_major_formatter("{x:g}")
    save(figure, path)
