"""What benchmarks/propositions.py found, as text and as a picture: sentences follow from the numbers alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.run.picture import COLOURS, label_points, save

PAGE = Path("docs/propositions.md")
MARKER = "<!-- propositions -->"
MPC = {"none": "#374151", "o": "#c2410c", "d": "#0b7285"}
RESIDUALS = {
    "A_orthonormal": r"$\lVert A^\top A - I \rVert$",
    "B_orthonormal": r"$\lVert B B^\top - I \rVert$",
    "B_orthogonal": r"$\lVert B B^\top - \mathrm{diag} \rVert$",
    "A_tilt": "tilt of A",
    "B_tilt": "tilt of B",
}
Data = Mapping[str, Any]


def write_page(data: Data, folder: Path) -> None:
    """The page with its tables, and its picture, in a docs/ folder."""
    held = folder / PAGE.name
    before = (held if held.is_file() else PAGE).read_text(encoding="utf-8")
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    save(picture(data), folder / "pictures" / "propositions")
    write(held, with_table(before, text(data), MARKER, PAGE.name))


def text(data: Data) -> str:
    parts = [
        data["about"] + f" Full fine-tuning {_score(data['full']['score'])}, the linear probe "
        f"{_score(data['probe']['score'])} ({data['metric']} in %, mean ± standard deviation over seeds).\n",
        "![Captured energy and score; the patterns](pictures/propositions.png)\n",
        "### Proposition 1: one reach, other results?\n",
        _first(data),
        "### Proposition 2: fewer constraints, better results?\n",
        _second(data),
        "### With MPC and without\n",
        _third(data),
        "### Does captured energy say who trains well?\n",
        _fourth(data),
    ]
    if data["failed"]:
        parts.append(f"Not finished: {', '.join(data['failed'])}.\n")
    return "\n".join(parts)


def _first(data: Data) -> str:
    found = data["equal_reach"]
    kin = [row for row in data["families"] if row["family"] in found["families"]]
    if len(kin) < 2:
        return "Not measured.\n"
    rows = []
    for row in kin:
        against = found["against_first"].get(row["family"])
        gaps = [_points(against["score"]), _loss_gap(against["loss"])] if against else ["", ""]
        energy = f"{100 * row['captured_on_all_layers']['mean']:.2f}"
        rows.append((_code(row["family"]), energy, _score(row["score"]), gaps[0], _loss(row["loss"]), gaps[1]))
    first = found["families"][0]
    header = ("family", "captured, %", data["metric"], f"against {first}", "loss", f"against {first}")
    told = [name for name, gaps in found["against_first"].items() if any(_apart(gap) for gap in gaps.values())]
    verdict = (
        f"{_names(told)} can be told from {first} (the 95 % interval leaves 0 out)"
        if told
        else f"none of them can be told from {first}: every 95 % interval holds 0"
    )
    gap = f"{found['largest_gap_of_captured_energy']:.1e}"
    return (
        f"The best fits of {_names(found['families'])} capture the same energy of every seed's $W^*$ (largest "
        f"difference {gap}), as eq. (22) says. After training, {verdict}.\n\n{table(header, rows)}"
    )


def _second(data: Data) -> str:
    if not data["patterns"]:
        return "Not measured.\n"
    rows = [
        (
            _code(row["family"]) + ("" if row["mpc"] == "none" else f" MPC_{row['mpc']}"),
            *(f"{row['residuals'][name]:.3g}" for name in RESIDUALS),
            _score(row["score"]),
            _loss(row["loss"]),
        )
        for row in sorted(data["patterns"], key=lambda row: row["loss"]["mean"])
    ]
    header = ("trained", *RESIDUALS.values(), data["metric"], "loss")
    lines = [
        f"- {name}: {_rho(data, key, 'score')} with the score, {_rho(data, key, 'loss')} with the loss"
        for key, name in RESIDUALS.items()
    ]
    told = [
        name for key, name in RESIDUALS.items() if any(_goes_with(data, key, against) for against in ("score", "loss"))
    ]
    verdict = (
        f"with the score or the loss goes {', '.join(told)}"
        if told
        else "no residual can be said to go with better or worse results: every 95 % interval holds 0"
    )
    return (
        "What each pattern asks of A and B and how far training left them from it (means over layers), the lowest loss "
        f"first.\n\n{table(header, rows)}\nRank correlations over these rows: {verdict}.\n\n" + "\n".join(lines) + "\n"
    )


def _third(data: Data) -> str:
    found = data["with_and_without_mpc"]
    rows = [
        (
            f"mean of {x['family']}" if x["family"].startswith("all") else _code(x["family"]),
            f"MPC_{x['mpc']}",
            _points(x["score"]),
            _loss_gap(x["loss"]),
        )
        for x in found
    ]
    if not rows:
        return "Not measured.\n"
    together = [
        f"MPC_{x['mpc']} changes the mean of {x['family']} by {_points(x['score'])} points and the loss by "
        f"{_loss_gap(x['loss'])}"
        for x in found
        if x["family"].startswith("all")
    ]
    header = ("family", "held to", f"{data['metric']}, points", "loss")
    return (
        "With the pattern minus without, paired by seed, 95 % intervals; AdaLoRA's own regulariser counts as its "
        f"MPC_o, and its MPC_d takes that one's place; its learning rate was found with MPC_o and is the same without, "
        f"which can make a mean of all its alone. {'; '.join(together)}.\n\n{table(header, rows)}"
    )


def _fourth(data: Data) -> str:
    rows = [
        (
            _code(row["family"]),
            f"{100 * row['captured']['mean']:.2f}",
            f"{100 * row['captured_on_all_layers']['mean']:.2f}",
            f"{row['permille']:.2f}",
            _score(row["score"]),
            _loss(row["loss"]),
        )
        for row in data["families"]
    ]
    header = ("family", "captured, %", "on all of them, %", "per mille", data["metric"], "loss")
    return (
        "Captured: the share of $\\lVert W^* - W \\rVert^2$ of all weights in blocks that the family's best fit holds "
        "where it was trained, mean over seeds. Rank correlation of captured energy with the score: "
        f"{_rho(data, 'captured energy', 'score')}; with the loss: {_rho(data, 'captured energy', 'loss')}. Extensions "
        f"alone: {_rho(data, 'captured energy, extensions', 'score')} and "
        f"{_rho(data, 'captured energy, extensions', 'loss')}. To judge these by, the number of trained parameters: "
        f"{_rho(data, 'trained parameters', 'score')} and {_rho(data, 'trained parameters', 'loss')}.\n\n"
        f"{table(header, rows)}"
    )


def picture(data: Data) -> Figure:
    """Captured energy against the score; LoRA's kin with each pattern."""
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    full, probe = (100 * data[name]["score"]["mean"] for name in ("full", "probe"))
    points = []
    for row in data["families"]:
        x, y, colour = 100 * row["captured"]["mean"], 100 * row["score"]["mean"], COLOURS[row["category"]]
        left.errorbar(x, y, 100 * row["score"]["spread"], fmt="o", color=colour, ms=5, lw=0.7, alpha=0.8, zorder=3)
        points.append((row["family"], x, y, colour))
    crowd = _crowd(data["families"])
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.set_xlabel("captured energy of the best fit to W*, %")
    for axes in (left, right):
        axes.set_ylabel(f"{data['metric']} after training, %")
        axes.axhline(full, color="#374151", lw=0.8, ls="--", zorder=1)
        axes.axhline(probe, color="#9ca3af", lw=0.8, ls=":", zorder=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb", lw=0.8, zorder=0)
    left.margins(x=0.1)
    left.set_title("dashed: full fine-tuning; dotted: linear probe", fontsize=9, loc="left")
    names = list(dict.fromkeys(row["family"] for row in data["patterns"]))
    for i, (pattern, colour) in enumerate(MPC.items()):
        rows = {row["family"]: row for row in data["patterns"] if row["mpc"] == pattern}
        spots = [(names.index(k) + 0.22 * (i - 1), 100 * v) for k, row in rows.items() for v in row["score"]["values"]]
        means = [(names.index(k) + 0.22 * (i - 1), 100 * row["score"]["mean"]) for k, row in rows.items()]
        if means:
            label = "without MPC" if pattern == "none" else f"MPC_{pattern}"
            right.scatter(*zip(*spots, strict=True), s=16, color=colour, alpha=0.5, zorder=3)
            right.scatter(*zip(*means, strict=True), s=220, marker="_", color=colour, lw=2, label=label, zorder=4)
    right.set_xticks(range(len(names)), names, rotation=30, ha="right")
    if names:
        right.legend(frameon=False, fontsize=9)
    figure.canvas.draw()
    if points:
        label_points(left, [point for point in points if point[0] not in crowd], full)
    if crowd:
        _label_together(left, [row for row in data["families"] if row["family"] in crowd])
    return figure


def _crowd(rows: list[Data]) -> set[str]:
    """The largest set of families with one captured energy, if more than three: their names would cover one another."""
    alike = ({b["family"] for b in rows if _close(a, b)} for a in rows)
    largest = max(alike, key=len, default=set())
    return largest if len(largest) > 3 else set()


def _close(a: Data, b: Data) -> bool:
    return abs(a["captured"]["mean"] - b["captured"]["mean"]) < 0.01 * a["captured"]["mean"]


def _label_together(axes, rows: list[Data]) -> None:
    """One column of names, best first, well below the points."""
    rows = sorted(rows, key=lambda row: -row["score"]["mean"])
    lowest = min(row["score"]["mean"] - row["score"]["spread"] for row in rows)
    text = "\n".join(row["family"] for row in rows)
    at = (100 * rows[0]["captured"]["mean"], 100 * lowest)
    axes.annotate(
        text,
        at,
        (at[0], 0.3),
        textcoords=("data", "axes fraction"),
        ha="center",
        va="top",
        fontsize=8.5,
        color=COLOURS["extension"],
        arrowprops={"arrowstyle": "-", "color": "#9ca3af", "linewidth": 0.6},
    )


def _apart(gap: Data) -> bool:
    return gap["low"] is not None and (gap["low"] > 0 or gap["high"] < 0)


def _goes_with(data: Data, key: str, against: str) -> bool:
    found = data["rank_correlations"][key][against]
    return found is not None and (found["low"] > 0 or found["high"] < 0)


def _score(told: Data) -> str:
    return f"{100 * told['mean']:.1f} ± {100 * told['spread']:.1f}"


def _loss(told: Data) -> str:
    return f"{told['mean']:.4f} ± {told['spread']:.4f}"


def _points(gap: Data) -> str:
    interval = "" if gap["low"] is None else f" ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})"
    return f"{100 * gap['mean']:+.1f}{interval}"


def _loss_gap(gap: Data) -> str:
    interval = "" if gap["low"] is None else f" ({gap['low']:+.4f} to {gap['high']:+.4f})"
    return f"{gap['mean']:+.4f}{interval}"


def _rho(data: Data, key: str, against: str) -> str:
    found = data["rank_correlations"][key][against]
    return "too few rows" if found is None else f"{found['rho']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _code(name: str) -> str:
    return f"`{name}`"


def _names(names: list[str]) -> str:
    return ", ".join(map(_code, names))
