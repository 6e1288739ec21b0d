"""Pictures on disk."""

from __future__ import annotations

from pathlib import Path


def save(figure, path: Path) -> None:
    """The picture as PNG and SVG; the same picture is the same file."""
    from matplotlib import rc_context

    figure.savefig(path.with_suffix(".png"), dpi=160)
    with rc_context({"svg.hashsalt": "subspace-tuning"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
