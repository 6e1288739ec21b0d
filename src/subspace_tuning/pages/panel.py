"""A panel of a moving picture: what maps of R^2 that follow one another make of the unit circle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from math import cos, pi, sin

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]  # rows (k, 2) to rows (k, 2)

SIDE, UNIT = 220, 58  # of a panel, and of 1, in pixels
SECONDS = 5
ARC = 0.5522847498  # of the handles of a quarter circle
QUARTERS = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0)]
BENT = [(cos(2 * pi * i / 48), sin(2 * pi * i / 48)) for i in range(48)]  # for maps that are not affine
COLOURS = ("#c2410c", "#0b7285")


def picture(title: str, panels: str, columns: int = 1, rows: int = 1) -> str:
    """Panels side by side, as SVG that moves by itself."""
    width, height = columns * SIDE, rows * SIDE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" role="img">\n<title>{escape(title)}</title>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{panels}\n</svg>\n'
    )


def panel(still: Map, moving: Sequence[Map], words: tuple[str, str], left: int = 0, top: int = 0) -> str:
    """The circle under ``still``, dashed, and under ``moving`` there and back; under these the two unit vectors too."""
    frames = [*moving, *reversed(moving)]
    shown = len(moving) - 1
    straight = all(_affine(f) for f in moving)
    circles = [_circle(f, straight) for f in frames]
    arrows = [[_arrow(f, unit) for f in frames] for unit in ((1.0, 0.0), (0.0, 1.0))]
    lines = (_path(drawn, shown, colour) for drawn, colour in zip(arrows, COLOURS, strict=True))
    return (
        f'<g transform="translate({left + SIDE / 2:g} {top + SIDE / 2 - 12:g})" fill="none" stroke-width="2">\n'
        f'<path d="{_circle(still, True)}" stroke="#9ca3af" stroke-dasharray="4 3"/>\n'
        f"{_path(circles, shown, '#1d4ed8')}{''.join(lines)}"
        f"{_words(words[0], 84, 14, '#111827')}{_words(words[1], 101, 11, '#4b5563')}</g>"
    )


def _path(drawn: list[str], shown: int, colour: str) -> str:
    frames = ";".join(drawn)
    moving = f'<animate attributeName="d" dur="{SECONDS}s" repeatCount="indefinite" values="{frames}"/>'
    return f'<path d="{drawn[shown]}" stroke="{colour}">{moving}</path>\n'


def _affine(f: Map) -> bool:
    zero, *units, corner = _images(f, [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 2.0)])
    return torch.allclose(corner - zero, -(units[0] - zero) + 2 * (units[1] - zero))


def _circle(f: Map, straight: bool) -> str:
    """Four arcs, whose points and handles go through an affine f; else many points."""
    if not straight:
        return "M" + "L".join(map(_point, _images(f, BENT))) + "Z"
    corners = [QUARTERS[0]]
    for (ax, ay), (bx, by) in pairwise(QUARTERS):
        corners += [(ax + ARC * bx, ay + ARC * by), (bx + ARC * ax, by + ARC * ay), (bx, by)]
    start, *others = map(_point, _images(f, corners))
    return f"M{start}" + "".join("C" + " ".join(others[i : i + 3]) for i in range(0, len(others), 3))


def _arrow(f: Map, unit: tuple[float, float]) -> str:
    start, end = map(_point, _images(f, [(0.0, 0.0), unit]))
    return f"M{start}L{end}"


def _images(f: Map, points: list[tuple[float, float]]) -> Tensor:
    return f(torch.tensor(points, dtype=torch.float64))


def _point(image: Tensor) -> str:
    x, y = image.tolist()
    return f"{UNIT * x + 0.0:.1f} {UNIT * -y + 0.0:.1f}".replace("-0.0 ", "0.0 ").removesuffix("-0.0")


def _words(text: str, y: int, size: int, colour: str) -> str:
    return f'<text y="{y}" text-anchor="middle" font-size="{size}" fill="{colour}">{escape(text)}</text>\n'
