"""What each family does to a weight W in R^{2 x 2}, as a moving picture: the ellipse {x W : |x| = 1}, and phi_t's."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method.method import Method
from subspace_tuning.method.parameters import Params
from subspace_tuning.method.registry import build
from subspace_tuning.method.strength import at_strength

W = torch.tensor([[1.1, 0.35], [-0.25, 0.6]], dtype=torch.float64)
FRAMES = 16  # from W to phi(W), and as many back
SECONDS = 5
SIDE, UNIT = 220, 58  # of a panel, and of 1, in pixels
COLUMNS = 4
ARC = 0.5522847498  # of the handles of a quarter circle
QUARTERS = [(1, 0), (0, 1), (-1, 0), (0, -1), (1, 0)]


class Shown(NamedTuple):
    """A method, what it is told to be, and what it does to the ellipse."""

    title: str
    method: Method
    values: Mapping[str, list]
    told: str


SHOWN = [
    Shown("SAM-PARSER", build("sam_parser", {}), {"delta": [-0.45, 0.5]}, "stretches its own axes"),
    Shown("SSL", build("ssl", {}), {"delta": [0.5, -0.4]}, "scales the inputs"),
    Shown("SSB", build("ssb", {}), {"delta1": [0.35, -0.3], "delta2": [-0.3, 0.9]}, "scales inputs and outputs"),
    Shown("(IA)3", build("ia3", {}), {"delta": [-0.35, 0.55]}, "scales the outputs"),
    Shown("OFT", build("oft", {"b": 2}), {"q": [0.5]}, "turns the inputs: the ellipse stays"),
    Shown(
        "LoRA, r = 1",
        build("lora", {"r": 1, "alpha": 1}),
        {"A": [[0.5], [0.6]], "B": [[0.3, 0.6]]},
        "adds a line",
    ),
    Shown(
        "DoRA, r = 1",
        build("dora", {"r": 1, "alpha": 1}),
        {"A": [[0.5], [0.6]], "B": [[0.3, 0.9]], "delta": [-0.15, 0.35]},
        "a line, then the columns' lengths",
    ),
    Shown(
        "LieRA, r = 1",
        build("liera", {"r": 1, "alpha": 1}),
        {"A": [[0.7], [0.5]], "B": [[0.3, 0.9]]},
        "multiplies each entry",
    ),
]


def phi_t(shown: Shown, t: float) -> Tensor:
    """phi_t(W) (2, 2)."""
    weight = Weight(W)
    values = {k: torch.tensor(v, dtype=W.dtype) for k, v in shown.values.items()}
    p = Params({**shown.method.constants(weight), **values})
    return at_strength(shown.method, t).phi(weight, p).dense()


def ellipses() -> str:
    """The picture, as SVG that moves by itself."""
    rows = -(-len(SHOWN) // COLUMNS)
    panels = "\n".join(_panel(shown, i % COLUMNS * SIDE, i // COLUMNS * SIDE) for i, shown in enumerate(SHOWN))
    size = f'width="{COLUMNS * SIDE}" height="{rows * SIDE}" viewBox="0 0 {COLUMNS * SIDE} {rows * SIDE}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" role="img">\n'
        "<title>What eight methods do to the ellipse of a weight</title>\n"
        f'<rect width="100%" height="100%" fill="white"/>\n{panels}\n</svg>\n'
    )


def _panel(shown: Shown, left: int, top: int) -> str:
    moments = [i / FRAMES for i in range(FRAMES + 1)]
    matrices = [phi_t(shown, t) for t in (*moments, *reversed(moments))]
    circles = [_circle(M) for M in matrices]
    lines = "".join(_arrow([M[i] for M in matrices], colour) for i, colour in enumerate(("#c2410c", "#0b7285")))
    return (
        f'<g transform="translate({left + SIDE / 2:g} {top + SIDE / 2 - 12:g})" fill="none" stroke-width="2">\n'
        f'<path d="{_circle(W)}" stroke="#9ca3af" stroke-dasharray="4 3"/>\n'
        f'<path d="{circles[FRAMES]}" stroke="#1d4ed8">{_moving("d", circles)}</path>\n'
        f"{lines}"
        f"{_words(shown.title, 84, 14, '#111827')}{_words(shown.told, 101, 11, '#4b5563')}</g>"
    )


def _arrow(images: list[Tensor], colour: str) -> str:
    """The image of a unit vector, a row of phi_t(W)."""
    ends = [_point(*v.tolist()) for v in images]
    drawn = [f"M0 0L{end}" for end in ends]
    return f'<path d="{drawn[FRAMES]}" stroke="{colour}">{_moving("d", drawn)}</path>\n'


def _circle(M: Tensor) -> str:
    """The unit circle's four arcs, each point and handle x as x M."""
    pieces = []
    for (ax, ay), (bx, by) in pairwise(QUARTERS):
        corners = [(ax + ARC * bx, ay + ARC * by), (bx + ARC * ax, by + ARC * ay), (bx, by)]
        pieces.append("C" + " ".join(_image(M, *corner) for corner in corners))
    return f"M{_image(M, *QUARTERS[0])}{''.join(pieces)}"


def _image(M: Tensor, x: float, y: float) -> str:
    return _point(*(torch.tensor([x, y], dtype=M.dtype) @ M).tolist())


def _point(x: float, y: float) -> str:
    return f"{UNIT * x:.1f} {-UNIT * y:.1f}"


def _moving(attribute: str, values: list[str]) -> str:
    frames = ";".join(values)
    return f'<animate attributeName="{attribute}" dur="{SECONDS}s" repeatCount="indefinite" values="{frames}"/>'


def _words(text: str, y: int, size: int, colour: str) -> str:
    return f'<text y="{y}" text-anchor="middle" font-size="{size}" fill="{colour}">{escape(text)}</text>\n'
