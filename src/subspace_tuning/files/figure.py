"""Pictures on disk."""

from __future__ import annotations

from pathlib import Path

from subspace_tuning.files.aside import whole_file


def save(figure, path: Path) -> None:
    """The picture as PNG and SVG; the same picture is the same file."""
    from matplotlib import rc_context

    with whole_file(path.with_suffix(".png")) as aside:
        figure.savefig(aside, format="png", dpi=160)
    with whole_file(path.with_suffix(".svg")) as aside, rc_context({"svg.hashsalt": "subspace-tuning"}):
        figure.savefig(aside, format="svg", metadata={"Date": None})
