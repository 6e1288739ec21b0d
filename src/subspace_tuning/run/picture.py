"""Results for the eye: score against parameters as a picture, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subspace_tuning.files.figure import save
from subspace_tuning.run.folder import Result

COLOURS = {"reconstruction": "#0b7285", "extension": "#c2410c", "combination": "#6d28d9", "full": "#374151"}
LABEL_HEIGHT = 13  # points


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table; columns whose cells are all numbers stand to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, header_style="bold", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.show_edge = table.pad_edge = False
    for i, name in enumerate(header):
        is_number = bool(rows) and all(row[i][:1].isdigit() for row in rows)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    Console(width=None if console.is_terminal else 120).print(table)


def score_against_parameters(results: Sequence[tuple[str, Result]], path: Path) -> None:
    """Save path.png and path.svg: one labelled point a method, parameters on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for category, colour in COLOURS.items():
        points = [(r.permille, 100 * r.score) for _, r in results if r.category == category]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.scatter(xs, ys, s=46, color=colour, label=category, zorder=3, edgecolor="white", linewidth=0.8)
    full = next((100 * r.score for _, r in results if r.category == "full"), None)
    if full is not None:
        axes.axhline(full, color=COLOURS["full"], linewidth=0.8, linestyle="--", zorder=1)
    axes.set_xlabel("trained parameters, per mille of the model")
    axes.set_ylabel(f"{results[0][1].metric.replace('_', ' ')}, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8, zorder=0)
    axes.margins(x=0.12, y=0.12)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.canvas.draw()
    named = [(title, r.permille, 100 * r.score, COLOURS[r.category]) for title, r in results]
    label_points(axes, named, full)
    save(figure, path)


def label_points(axes, points: Sequence[tuple[str, float, float, str]], line: float | None = None) -> None:
    """Write each name beside its point (name, x, y, colour): of right and left, near and far, the first free place.

    Not free are points, other names, and the height of a line across.
    """
    scale = 72 / axes.figure.dpi  # pixels -> points
    dots = axes.transData.transform([(x, y) for _, x, y, _ in points]) * scale
    _, _, right_edge, _ = axes.bbox.extents * scale
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    if line is not None:
        _, height = axes.transData.transform((points[0][1], line)) * scale
        taken.append((0, height - 1, right_edge, height + 1))
    for (title, *at, colour), (x, y) in zip(points, dots, strict=True):
        width = 5.0 * len(title)
        places = [(dx, dy) for dy in (0, 11, -11, 22, -22, 33, -33) for dx in (7, -7 - width)]
        free = (
            (dx, dy)
            for dx, dy in places
            if x + dx + width < right_edge and not any(_overlap(_box(x + dx, y + dy, width), other) for other in taken)
        )
        dx, dy = next(free, (7, 0))
        taken.append(_box(x + dx, y + dy, width))
        axes.annotate(
            title,
            at,
            (dx, dy),
            textcoords="offset points",
            fontsize=8.5,
            va="center",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": "#9ca3af", "linewidth": 0.6, "shrinkB": 3}
            if abs(dy) > 10
            else None,
        )


def _box(x: float, y: float, width: float) -> tuple[float, float, float, float]:
    return x, y - LABEL_HEIGHT / 2, x + width, y + LABEL_HEIGHT / 2


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
