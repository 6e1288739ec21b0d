"""What each family does to a weight W in R^{2 x 2}, as a moving picture: the ellipse {x W : |x| = 1}, and phi_t's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from subspace_tuning.method.method import Method
from subspace_tuning.method.registry import build
from subspace_tuning.pages.panel import SIDE, Map, panel, picture
from subspace_tuning.pages.small import FRAMES, W, map_of, params, plain

COLUMNS = 4
TITLE = "What twelve methods do to the ellipse of a weight"


class Shown(NamedTuple):
    """A method, what it is told to be, and what it does to the ellipse."""

    title: str
    method: Method
    values: Mapping[str, list]
    told: str


SHOWN = [
    Shown("SAM-PARSER", build("sam_parser", {}), {"delta": [-0.45, 0.5]}, "stretches its own axes"),
    Shown("SSL", build("ssl", {}), {"delta": [0.5, -0.4]}, "scales the inputs"),
    Shown("(IA)3", build("ia3", {}), {"delta": [-0.35, 0.55]}, "scales the outputs"),
    Shown("SSB", build("ssb", {}), {"delta1": [0.35, -0.3], "delta2": [-0.3, 0.9]}, "scales inputs and outputs"),
    Shown("OFT", build("oft", {"b": 2}), {"q": [0.5]}, "turns the inputs: the ellipse stays"),
    Shown("RoAd", build("road", {"group": 2}), {"theta": [0.8], "delta": [0.15]}, "turns the outputs"),
    Shown("BitFit", build("bitfit", {}), {"delta": [0.45, 0.35]}, "moves it, by the bias"),
    Shown(
        "PaFi, one entry",
        build("pafi", {"share": 0.25}),
        {"v": [0.8]},
        "changes entries, one by one",
    ),
    Shown(
        "LoRA, r = 1",
        build("lora", {"r": 1, "alpha": 1}),
        {"A": [[0.5], [0.6]], "B": [[0.3, 0.6]]},
        "adds a line",
    ),
    Shown(
        "Parallel adapter, r = 1",
        build("parallel", {"r": 1}),
        {"A": [[0.5], [0.9]], "B": [[0.7, 0.8]]},
        "adds half a line: a bend",
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


def map_t(shown: Shown, t: float) -> Map:
    """x to x phi_t(W)."""
    values = {k: torch.tensor(v, dtype=W.dtype) for k, v in shown.values.items()}
    return map_of(shown.method, params(shown.method, values), t)


def phi_t(shown: Shown, t: float) -> Tensor:
    """phi_t(W) (2, 2), of methods that are linear."""
    return map_t(shown, t)(torch.eye(2, dtype=W.dtype))


def ellipses() -> str:
    """The picture, as SVG that moves by itself."""
    panels = []
    for i, shown in enumerate(SHOWN):
        maps = [map_t(shown, moment / FRAMES) for moment in range(FRAMES + 1)]
        panels.append(panel(plain, maps, (shown.title, shown.told), i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    return picture(TITLE, "\n".join(panels), COLUMNS, -(-len(SHOWN) // COLUMNS))
