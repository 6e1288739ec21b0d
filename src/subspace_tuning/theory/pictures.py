"""Pictures of an analysis: layer x module heat maps, spectra, angles, similarities; each as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, isfinite, nan
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from subspace_tuning.files.aside import whole_file
from subspace_tuning.run.skeleton import split

Data = Mapping[str, Any]

MAPS: dict[str, Callable[[Data], float]] = {
    r"relative change $\|\Delta W\| / \|W\|$": lambda x: x["relative_change"],
    r"stable rank of $\Delta W$": lambda x: x["stable_rank"]["change"],
    "effective rank gained": lambda x: x["effective_rank"]["after"] - x["effective_rank"]["before"],
    "largest turn, degrees": lambda x: max(x["angles"]["left"] + x["angles"]["right"]),
    "inside span(W), times chance": lambda x: x["inside"]["share"] / x["inside"]["chance"],
    "amplification": lambda x: x["amplification"],
    "intruders": lambda x: len(x["intruders"]),
    r"optimal scale $s^*$": lambda x: x.get("optimal_scale", nan),
    r"tilt of $A$": lambda x: x.get("patterns", {}).get("A_tilt", nan),
    r"tilt of $B$": lambda x: x.get("patterns", {}).get("B_tilt", nan),
}
BEFORE, AFTER, CHANGE = "#9ca3af", "#0b7285", "#c2410c"


def draw(data: Data, folder: Path) -> list[Path]:
    """Draw all that the data holds; returns the files."""
    figures = {
        "heatmaps": heat_maps(data["layers"]),
        "spectra": spectra(data["layers"]),
        "angles": angles(data["layers"]),
    }
    if data["between_layers"]:
        figures["between-layers"] = between(data["between_layers"])
    if "versus" in data:
        figures["versus"] = versus(data["versus"])
    if "scaling_intruders" in data:
        figures["intruders"] = scaling(data["scaling_intruders"])
    written = []
    for name, figure in figures.items():
        for kind, how in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
            path = folder / f"{name}.{kind}"
            with whole_file(path) as aside:
                figure.savefig(aside, format=kind, **how)
            written.append(path)
    return written


def heat_maps(layers: Data) -> Figure:
    """One map a quantity: layers down, kinds of modules across."""
    numbers, kinds = _axes_of(layers)
    grids = {}
    for title, value in MAPS.items():
        grid = [[nan] * len(kinds) for _ in numbers]
        for name, told in layers.items():
            number, kind = split(name)
            grid[numbers.index(number)][kinds.index(kind)] = value(told)
        if any(isfinite(x) for row in grid for x in row):
            grids[title] = grid
    across = min(4, len(grids))
    width, height = max(2.6, 0.45 * len(kinds) + 1.4), max(2.2, 0.22 * len(numbers) + 1.9)
    figure, axes = _grid(len(grids), across, width, height)
    for ax, (title, grid) in zip(axes, grids.items(), strict=False):
        shown = [[x if isfinite(x) else nan for x in row] for row in grid]
        image = ax.imshow(shown, aspect="auto", cmap="viridis")
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(kinds)), list(_short(kinds).values()), rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(len(numbers)), numbers, fontsize=7)
        figure.colorbar(image, ax=ax, fraction=0.05).ax.tick_params(labelsize=7)
    axes[0].set_ylabel("layer", fontsize=8)
    return figure


def spectra(layers: Data) -> Figure:
    """Singular values before and after, and of the change: for each kind of module its most changed layer."""
    chosen: dict[str, str] = {}
    for name, told in layers.items():
        kind = split(name)[1]
        if kind not in chosen or told["relative_change"] > layers[chosen[kind]]["relative_change"]:
            chosen[kind] = name
    figure, axes = _grid(len(chosen), min(4, len(chosen)), 2.9, 2.4)
    short = _short(chosen)
    for ax, (kind, name) in zip(axes, chosen.items(), strict=False):
        values = layers[name]["singular_values"]
        for key, colour, line in (("before", BEFORE, "-"), ("after", AFTER, "--"), ("change", CHANGE, "-")):
            ax.plot(range(1, len(values[key]) + 1), values[key], line, color=colour, linewidth=1.4, label=key)
        ax.set_yscale("log")
        ax.set_title(f"{short[kind]}, layer {split(name)[0]}".removesuffix(", layer "), fontsize=9)
        _plain(ax)
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
        ax.tick_params(axis="y", which="minor", labelsize=6)
    axes[0].set_ylabel("singular value", fontsize=8)
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def angles(layers: Data) -> Figure:
    """Principal angles between the leading singular subspaces before and after, a line a layer."""
    numbers, kinds = _axes_of(layers)
    figure, axes = _grid(2 * len(kinds), len(kinds), 2.4, 2.1)
    colours, short = colormaps["viridis"], _short(kinds)
    for row, side in enumerate(("left", "right")):
        for column, kind in enumerate(kinds):
            ax = axes[row * len(kinds) + column]
            for name, told in layers.items():
                if split(name)[1] == kind:
                    shade = numbers.index(split(name)[0]) / max(len(numbers) - 1, 1)
                    values = told["angles"][side]
                    ax.plot(range(1, len(values) + 1), values, color=colours(0.9 * shade), linewidth=1.1)
            ax.set_ylim(0, 92)
            ax.set_title(short[kind] if row == 0 else "", fontsize=9)
            _plain(ax)
            if column == 0:
                ax.set_ylabel(f"{side}, degrees", fontsize=8)
    figure.supxlabel("principal angle; dark lines are early layers", fontsize=8)
    return figure


def between(kinds: Data) -> Figure:
    """How alike the changes of different layers are; a layer with itself is left blank."""
    figure, axes = _grid(2 * len(kinds), len(kinds), 2.4, 2.3)
    short = _short(kinds)
    for column, (kind, told) in enumerate(kinds.items()):
        for row, side in enumerate(("left", "right")):
            ax = axes[row * len(kinds) + column]
            grid = [[nan if i == j else x for j, x in enumerate(line)] for i, line in enumerate(told[side])]
            image = ax.imshow(grid, cmap="magma", vmin=0)
            ax.set_title(f"{short[kind]}, {side}\nchance {told['chance'][side]:.3f}", fontsize=7)
            ax.set_xticks(range(len(told["layers"])), told["layers"], fontsize=6)
            ax.set_yticks(range(len(told["layers"])), told["layers"], fontsize=6)
            figure.colorbar(image, ax=ax, fraction=0.046).ax.tick_params(labelsize=6)
    return figure


def versus(told: Data) -> Figure:
    """psi(i, j) between the changes of two trainings, mean over layers."""
    figure, axes = _grid(2, 2, 3.2, 2.8)
    for ax, side in zip(axes, ("left", "right"), strict=True):
        grid = told["mean"][side]
        image = ax.imshow(grid, cmap="magma", vmin=0, vmax=1, origin="lower", aspect="auto")
        ax.set_title(f"{side} singular vectors", fontsize=9)
        ax.set_xlabel("j, of the other", fontsize=8)
        ax.set_ylabel("i, of this one", fontsize=8)
        ax.set_xticks(range(len(grid[0])), range(1, len(grid[0]) + 1), fontsize=7)
        ax.set_yticks(range(len(grid)), range(1, len(grid) + 1), fontsize=7)
    figure.colorbar(image, ax=axes, fraction=0.04, label=r"$\psi(i, j)$")
    return figure


def scaling(points: Sequence[Data]) -> Figure:
    """What scaling intruder dimensions down does to the logits."""
    figure, (ax,) = _grid(1, 1, 4.4, 3.0)
    scales = [p["scale"] for p in points]
    ax.plot(scales, [p["to_trained"] for p in points], "o-", color=AFTER, label="to the trained model")
    ax.plot(scales, [p["to_base"] for p in points], "o-", color=BEFORE, label="to the base model")
    ax.set_xlabel("scale of the intruder dimensions", fontsize=8)
    ax.set_ylabel("mean distance of logits", fontsize=8)
    ax.legend(frameon=False, fontsize=8)
    _plain(ax)
    return figure


def _grid(count: int, across: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    down = ceil(count / across)
    figure = Figure(figsize=(max(width * across, 4.0), height * down + 0.3), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def _axes_of(layers: Data) -> tuple[list[str], list[str]]:
    """The numbers of layers and the kinds of modules, in the order of the network."""
    places = [split(name) for name in layers]
    return list(dict.fromkeys(number for number, _ in places)), list(dict.fromkeys(kind for _, kind in places))


def _short(kinds: Iterable[str]) -> dict[str, str]:
    """The last two parts of each name; more where that would make two of them one."""
    kinds = list(kinds)

    def last(kind: str, parts: int) -> str:
        return ".".join(kind.split(".")[-parts:])

    depth = dict.fromkeys(kinds, 2)
    while len({last(k, depth[k]) for k in kinds}) < len(kinds) and max(depth.values()) < 9:
        shown = [last(k, depth[k]) for k in kinds]
        depth = {k: depth[k] + (shown.count(last(k, depth[k])) > 1) for k in kinds}
    return {kind: last(kind, depth[kind]) for kind in kinds}


def _plain(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7)
