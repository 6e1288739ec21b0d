"""Checkpoints read tensor by tensor: only what is being looked at is in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import CONFIG, UNREADABLE
from subspace_tuning.files.assets import location
from subspace_tuning.files.plain import read_object

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class Checkpoint:
    """The tensors of a folder (a model's, an adapter's, a run's), of a safetensors file, or of a name on the hub."""

    def __init__(self, name: str | Path):
        self.name = str(name)
        self.folder, files = _files(self.name)
        self._file: dict[str, Path] = {}
        self._size: dict[str, tuple[int, ...]] = {}
        for path in files:
            try:
                with safe_open(path, "pt") as held:
                    for key in held.keys():  # noqa: SIM118  a file's, not a dictionary's
                        self._file[key] = path
                        self._size[key] = tuple(held.get_slice(key).get_shape())
            except UNREADABLE as error:
                raise BadInput(f"cannot read the weights {path}: {error}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._file

    def keys(self) -> list[str]:
        return sorted(self._file)

    @property
    def files(self) -> dict[str, Path]:
        """Where each tensor is."""
        return self._file

    def shape(self, key: str) -> tuple[int, ...]:
        return self._size[key]

    def stored(self, key: str, at: int | None = None) -> Tensor:
        """A tensor or its part ``at``, in its own precision. Its file is closed again, and no page stays in memory."""
        with safe_open(self._file[key], "pt") as held:
            return (held.get_tensor(key) if at is None else held.get_slice(key)[at]).clone()

    def read(self, key: str, at: int | None = None) -> Tensor:
        """A tensor, or its part ``at``, in single precision."""
        value = self.stored(key, at)
        if not value.is_floating_point():
            raise BadInput(
                f"{key} of {self.name} is stored as {str(value.dtype).removeprefix('torch.')}: quantised "
                "checkpoints are not read as weights; give the one that they were made from"
            )
        if not (wide := value.to(torch.float32)).isfinite().all():
            raise BadInput(f"{key} of {self.name} holds NaN or infinite numbers: the checkpoint is broken there")
        return wide

    @property
    def total(self) -> int:
        """Numbers in all tensors."""
        return sum(torch.Size(size).numel() for size in self._size.values())

    @property
    def is_adapter(self) -> bool:
        return (self.folder / CONFIG).is_file()

    def config(self) -> dict[str, Any] | None:
        """The model's config.json, where there is one."""
        path = self.folder / "config.json"
        if not path.is_file():
            return None
        return read_object(path, "the model's config")

    def digest(self) -> str:
        """Changes when a file does, without reading it."""
        told = hashlib.sha256()
        for path in sorted(set(self._file.values())):
            about = path.stat()
            told.update(f"{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
        return told.hexdigest()


def _files(name: str) -> tuple[Path, list[Path]]:
    path = Path(location(name))
    if path.is_file() and path.suffix == ".safetensors":
        return path.parent, [path]
    if (path / "config.yaml").is_file():
        path = trained(path)
    if not path.is_dir():
        path = _from_hub(name)
    found = shards(path)
    if not found:
        found = [path / SINGLE] if (path / SINGLE).is_file() else sorted(path.glob("*.safetensors"))
    if not found:
        pickled = " (its .bin file could run code and is never opened)" if any(path.glob("*.bin")) else ""
        raise BadInput(f"there is no .safetensors file in {path}{pickled}; give the folder of a model or an adapter")
    return path, found


def shards(folder: Path) -> list[Path]:
    """The files that a folder's index names, none where it has no index. Raises BadInput for one outside the folder."""
    index = folder / INDEX
    if not index.is_file():
        return []
    named = read_object(index, "the index").get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise BadInput(f"the index {index} is damaged: its weight_map names no files; copy the model again")
    for name in sorted(set(named.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BadInput(f"the index {index} names {name!r}, expected a .safetensors file of the same folder")
        if not (folder / name).is_file():
            raise BadInput(f"the shard {folder / name} is missing")
    return [folder / name for name in sorted(set(named.values()))]


def trained(run: Path) -> Path:
    """The folder with the trained weights in a run's."""
    found = [run / name for name in ("adapter", "model") if (run / name).is_dir()]
    if not found:
        raise BadInput(f"{run} has no trained weights yet; finish it with `subspace train {run}/config.yaml`")
    return found[0]


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"]))
    except Exception as error:  # whatever the hub's client raises: offline, unknown, no access
        raise BadInput(f"{name!r} is neither a folder with a model nor a model on the hub within reach") from error
