"""Checkpoints read tensor by tensor: only what is being looked at is in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.files.assets import location

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
ADAPTER = "adapter_config.json"


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
            except (SafetensorError, OSError) as error:
                raise BadInput(f"cannot read the weights {path}: {error}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._file

    def keys(self) -> list[str]:
        return sorted(self._file)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._size[key]

    def stored(self, key: str) -> Tensor:
        """A tensor in its own precision. Its file is closed again, so that no page of it stays in memory."""
        with safe_open(self._file[key], "pt") as held:
            return held.get_tensor(key).clone()

    def read(self, key: str) -> Tensor:
        """A tensor in single precision."""
        value = self.stored(key)
        if not value.is_floating_point():
            raise BadInput(
                f"{key} of {self.name} is stored as {str(value.dtype).removeprefix('torch.')}: quantised "
                "checkpoints are not read as weights; give the one that they were made from"
            )
        return value.to(torch.float32)

    @property
    def total(self) -> int:
        """Numbers in all tensors."""
        return sum(torch.Size(size).numel() for size in self._size.values())

    @property
    def is_adapter(self) -> bool:
        return (self.folder / ADAPTER).is_file()

    def config(self) -> dict[str, Any] | None:
        """The model's config.json, where there is one."""
        path = self.folder / "config.json"
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read the model's config {path}: {error}") from error
        return data if isinstance(data, dict) else None

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
    if (path / INDEX).is_file():
        try:
            shards = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise BadInput(f"the index {path / INDEX} is damaged: {error}") from error
        found = [path / Path(shard).name for shard in sorted(set(shards))]
    else:
        found = [path / SINGLE] if (path / SINGLE).is_file() else sorted(path.glob("*.safetensors"))
    if not found:
        pickled = " (its .bin file could run code and is never opened)" if any(path.glob("*.bin")) else ""
        raise BadInput(f"there is no .safetensors file in {path}{pickled}; give the folder of a model or an adapter")
    for shard in found:
        if not shard.is_file():
            raise BadInput(f"the shard {shard} is missing")
    return path, found


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
