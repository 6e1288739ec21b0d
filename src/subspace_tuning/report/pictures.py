"""Spectra and subspaces of the best runs, as pictures within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_tuning.errors import BadInput
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.theory.analyze import Look, analyze

if TYPE_CHECKING:
    import pandas

DPI = 100
LOOK = Look(scales=())


def pictures(
    folder: Path, runs: pandas.DataFrame, count: int, tick: Callable[[int], None] = lambda total: None
) -> list[dict[str, str]]:
    """Of the best run of each of the ``count`` methods best on average whose weights are there and change a matrix."""
    found: list[dict[str, str]] = []
    final = runs[runs["kind"] == "final"]
    ranked = final.assign(mean=final.groupby("label")["score"].transform("mean"))
    best = ranked.sort_values(["mean", "score"], ascending=False).drop_duplicates("label")
    looked = 0
    for run in best.itertuples():
        if looked == count:
            break
        try:
            RunFolder(folder / run.run).weights()
            data = analyze(folder / run.run, look=LOOK)
        except BadInput:
            continue
        looked += 1
        found += _drawn(data, f"{run.label}, {run.task}, seed {run.seed}")
        tick(count)
    return found


def _drawn(data: dict[str, Any], whose: str) -> list[dict[str, str]]:
    from subspace_tuning.theory.pictures import angles, heat_maps, spectra

    s = data["summary"]
    told = (
        f"Means over {s['layers']} layers: relative change {s['relative_change']:.3g}, stable rank of the change "
        f"{s['stable_rank_of_change']:.3g}, largest turn {s['largest_angle']:.3g} degrees."
    )
    figures = {
        "singular values": spectra(data["layers"]),
        "principal angles": angles(data["layers"]),
        "layer by layer": heat_maps(data["layers"]),
    }
    return [
        {"title": f"{whose}: {name}. {told}", "alt": f"{name} of {whose}. {told}", "src": _png(figure)}
        for name, figure in figures.items()
    ]


def _png(figure: Any) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
