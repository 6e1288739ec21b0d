"""The two files of an adapter's folder, read with nothing believed: a config, and tensors that are whole and finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.files.plain import read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LONGEST = 512  # characters of a tensor's name
WHOLE = {torch.bool, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}
UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)


def read_config(folder: Path) -> dict[str, Any]:
    """The plain data of adapter_config.json."""
    return read_object(folder / CONFIG, "the adapter's config")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors by their keys, in their own precision. Raises BadInput for one that is empty, NaN or infinite."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = any(folder.glob("*.bin"))
        hint = " (there is a .bin file, which could run code and is never opened: load it in PEFT and save it again)"
        raise BadInput(f"there is no {WEIGHTS} in {folder}{hint if pickled else ''}")
    found = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  a file's, not a dictionary's
                found[key] = file.get_tensor(key).clone()  # a mapped file that is cut meanwhile ends the process
    except UNREADABLE as error:
        raise BadInput(f"the adapter {path} is damaged: {error}; copy or train it again") from error
    for key, value in found.items():
        if why := fault(value):
            raise BadInput(f"the adapter {path} is damaged: {key[:LONGEST]} {why}; copy or train it again")
        if len(key) > LONGEST:
            raise BadInput(f"the adapter {path} holds a tensor whose name has {len(key)} characters; none has so many")
    return found


def fault(value: Tensor) -> str:
    """Why a tensor cannot be a parameter, or nothing; single precision is what it will be held in."""
    if not value.numel():
        return f"is empty, of shape {tuple(value.shape)}"
    if value.is_floating_point():
        return "" if bool(value.to(torch.float32).isfinite().all()) else "holds NaN or infinite numbers"
    return "" if value.dtype in WHOLE else f"is stored as {str(value.dtype).removeprefix('torch.')}"
