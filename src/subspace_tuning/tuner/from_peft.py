"""What an adapter of PEFT's own says, as keywords of our config.

A field of its config that changes what it computes and has no counterpart here is refused by its name; one that only
says how training began is not looked at. Weights are read from safetensors, never from pickles.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.peft_kinds import KINDS, Kind, Source

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHARED = (  # read by every type, as they are
    *("task_type", "base_model_name_or_path", "revision"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
)
OF_NO_EFFECT = {"peft_type", "peft_version", "auto_mapping", "inference_mode", "fan_in_fan_out", "runtime_config"}


def read_config(config: PeftConfig) -> tuple[Kind, Source]:
    """The type and the plain data of one of PEFT's configs. Raises BadInput for what has no counterpart."""
    return _kind_of(config.to_dict(), f"this {type(config).__name__}")


def read_folder(folder: str | Path) -> tuple[Kind, Source]:
    """The type, the plain data and the weights of an adapter's folder. Raises BadInput for what has no counterpart."""
    folder = Path(folder)
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} is no adapter of PEFT's: cannot read {path}: {error}") from error
    kind, source = _kind_of(data, str(path))
    return kind, source._replace(weights=_load(folder))


def keywords(kind: Kind, source: Source) -> dict[str, Any]:
    """What SubspaceConfig is made from."""
    return {key: source.config[key] for key in SHARED if source.config.get(key) is not None} | kind.read(source)


def _kind_of(data: Any, where: str) -> tuple[Kind, Source]:
    found = data.get("peft_type") if isinstance(data, dict) else None
    name = str(getattr(found, "value", found))
    if name == "SUBSPACE":
        raise BadInput(f"{where} is of type SUBSPACE: it is an adapter of ours already, there is nothing to import")
    if name not in KINDS:
        raise BadInput(f"{where} is of PEFT's type {name}; those that can be imported are {', '.join(KINDS)}")
    kind = KINDS[name]
    known = {f.name: f for f in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[name])}  # type: ignore[index]
    for key, value in data.items():
        if not value or key in OF_NO_EFFECT or key in SHARED or key in kind.fields:
            continue
        if key not in known or value != known[key].default:
            raise BadInput(
                f"the adapter was made with {key}={value!r}, which PEFT's {name} knows and nothing here does; "
                "it cannot be imported"
            )
    return kind, Source(data)


def _load(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = any(folder.glob("*.bin"))
        hint = "; the .bin file there could run code and is never opened: load it in PEFT and save it again"
        raise BadInput(f"there is no {WEIGHTS} in {folder}{hint if pickled else ''}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadInput(f"the weights {path} are damaged: {error}") from error
