"""An ONNX file of a DINOv2 as a checkpoint of transformers. Of the file only its constants are read; nothing is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from subspace_tuning.errors import BadInput

FILE = "model.onnx"
_GRAPH, _NODE, _CONSTANT = 7, 1, 5  # of a model; of a graph (ONNX's protocol buffers, onnx.proto)
_INPUT, _NAME, _OPERATOR = 1, 3, 4  # of a node
_SIDE, _CALLED, _RAW = 1, 8, 9  # of a constant
_SIZE = {0: None, 1: 8, 2: None, 5: 4}  # bytes of a value, by its wire type


def convert(folder: Path) -> None:
    """Replace the folder's ``model.onnx`` by safetensors, a config and what makes inputs of pictures."""
    from safetensors.torch import save_file
    from torch import from_numpy
    from transformers import Dinov2Config, Dinov2Model

    constants, products = _read(memoryview((folder / FILE).read_bytes()))
    held = {name.removeprefix("backbone."): x for name, x in constants.items() if name.startswith("backbone.")}
    for node, constant in products.items():
        found = re.fullmatch(r"/backbone/(encoder/.*)/MatMul", node)
        if found and constant in constants:  # others multiply keys and values
            held[f"{found[1].replace('/', '.')}.weight"] = constants[constant].T  # of a torch Linear
    positions = [x for name, x in constants.items() if name.startswith(("onnx::Concat", "onnx::Reshape"))]
    held["embeddings.position_embeddings"] = np.concatenate(positions, 1)  # of the class token, then of the patches
    held["embeddings.mask_token"] = np.zeros((1, held["layernorm.weight"].size), np.float32)
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    tensors = {name: from_numpy(np.ascontiguousarray(x)) for name, x in held.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    read: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)  # which knows names of other days
    model, told = read
    if lost := sorted({*told["missing_keys"], *told["unexpected_keys"]}):
        raise BadInput(f"the ONNX file is not the DINOv2 that it should be: {lost[0]}")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES, indent=2))
    (folder / FILE).unlink()


PICTURES = {  # as DINOv2 was trained to see them
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"height": 518, "width": 518},
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
}


def _read(model: memoryview) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The constants of single precision by name, and which of them each matrix product has, by the product's name."""
    constants: dict[str, np.ndarray] = {}
    products: dict[str, str] = {}
    for graph in (value for key, value in _fields(model) if key == _GRAPH):
        for key, value in _fields(graph):
            parts = list(_fields(value)) if key in (_CONSTANT, _NODE) else []
            texts = {
                k: bytes(v).decode() for k, v in parts if k in (_NAME, _OPERATOR, _CALLED) and not isinstance(v, int)
            }
            if key == _CONSTANT and (raw := dict(parts).get(_RAW)) is not None:
                shape = [v for k, v in parts if k == _SIDE]
                if len(raw) == 4 * np.prod(shape, dtype=int):
                    constants[texts[_CALLED]] = np.frombuffer(raw, "<f4").reshape(shape)
            elif key == _NODE and texts.get(_OPERATOR) == "MatMul":
                products[texts[_NAME]] = bytes([v for k, v in parts if k == _INPUT][-1]).decode()
    return constants, products


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Of a message of protocol buffers, the number and the value of each field."""
    at = 0
    while at < len(message):
        key, at = _integer(message, at)
        if key & 7 not in _SIZE:
            raise BadInput(f"the ONNX file is damaged: a field of type {key & 7}")
        size = _SIZE[key & 7]
        if key & 7 == 0:
            value, at = _integer(message, at)
        else:
            if size is None:
                size, at = _integer(message, at)
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _integer(message: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
