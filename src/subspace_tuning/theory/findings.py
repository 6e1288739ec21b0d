"""What an analysis has found of its layers, kept beside its folder until it is saved: an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from subspace_tuning.files.aside import whole_file
from subspace_tuning.linalg.svd import SVD
from subspace_tuning.theory.streamed_work import begun, unfinished

PARTS = ("change", "intruding")


@dataclass
class Found:
    """One layer's findings, and the singular vectors by which layers are compared."""

    told: dict[str, Any]
    change: SVD  # its leading terms
    intruding: SVD  # terms of W'


class Findings:
    """By layer, what was found, None where nothing had changed; in a file each where there is a folder to be made."""

    def __init__(self, out: Path | None, work: list[Any]):
        """work: what is looked at, and how closely; what another work has left is not used."""
        self._found: dict[str, Found | None] = {}
        self._folder = None if out is None else begun(out, hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16])
        for path in () if self._folder is None else self._folder.glob("*.safetensors"):
            self._found |= _read(path)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> Found | None:
        return self._found[name]

    def __setitem__(self, name: str, found: Found | None) -> None:
        self._found[name] = found
        if self._folder is None:
            return
        tensors = {} if found is None else dict(_tensors(found))
        about = {"name": name, "told": json.dumps(found and found.told)}
        with whole_file(self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors") as path:
            save_file(tensors, path, about)


def done(out: Path) -> None:
    """All is saved: nothing is kept beside the folder any more."""
    shutil.rmtree(unfinished(out), ignore_errors=True)


def _tensors(found: Found) -> Iterator[tuple[str, torch.Tensor]]:
    for part in PARTS:
        for key, t in getattr(found, part)._asdict().items():
            yield f"{part}.{key}", t.contiguous().clone()


def _read(path: Path) -> dict[str, Found | None]:
    """What a file keeps; nothing where it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            told = json.loads(about["told"])
            if told is None:
                return {about["name"]: None}
            parts = [SVD(*(file.get_tensor(f"{part}.{key}") for key in SVD._fields)) for part in PARTS]
        return {about["name"]: Found(told, *parts)}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return {}
