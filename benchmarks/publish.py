"""Figures of a benchmark go into docs/data/<name>.json, and as a table between two marker lines of a page."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from subspace_tuning.bench import memory
from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import with_table


def setting() -> dict[str, Any]:
    """What the figures were made on; the load tells whether the machine was quiet."""
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    known = {"device": memory.device_name(), "threads": torch.get_num_threads(), "load_at_start": load}
    return {**known, "torch": torch.__version__, "python": platform.python_version()}


def publish(name: str, data: dict[str, Any], page: str, tables: dict[str, str], root: Path = Path()) -> None:
    """Write the data, and each table between its two ``<!-- key -->`` lines of the page."""
    path, text = root / page, (root / page).read_text(encoding="utf-8")
    for key, made in tables.items():
        text = with_table(text, made, f"<!-- {key} -->", page)
    save(root / "docs" / "data" / f"{name}.json", data)
    write(path, text)


def save(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(data, indent=2) + "\n")


def told(where: dict[str, Any]) -> str:
    """The setting in words, for beneath a table."""
    return (
        f"\nDevice: {where['device']}, threads: {where['threads']}, load when it began: {where['load_at_start']}, "
        f"torch {where['torch']}.\n"
    )
