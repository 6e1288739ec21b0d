"""Tensors in nested plain data, such as an optimiser's state, as one safetensors file: a pickle could run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_TREE = "tree"


def save(state: Any, path: Path) -> None:
    """Write dictionaries, lists and tuples of tensors, numbers, texts and None. Raises TypeError for anything else."""
    tensors: dict[str, Tensor] = {}
    tree = _plain(state, tensors)
    save_file(tensors, path, {_TREE: json.dumps(tree)})


def load(path: Path) -> Any:
    """What was saved; tensors are on the CPU."""
    with safe_open(path, "pt") as file:
        tree = json.loads(file.metadata()[_TREE])
        return _whole(tree, file.get_tensor)


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_plain(k, tensors), _plain(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(x, tensors) for x in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    raise TypeError(f"{type(value).__name__} is no plain data")


def _whole(value: Any, tensor: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensor(held)
    if kind == "dict":
        return {_whole(k, tensor): _whole(v, tensor) for k, v in held}
    if kind == "dtype":
        return getattr(torch, held)
    if kind == "device":
        return torch.device(held)
    items = [_whole(x, tensor) for x in held]
    return tuple(items) if kind == "tuple" else items
