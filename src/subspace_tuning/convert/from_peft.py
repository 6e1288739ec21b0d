"""PEFT's own adapters as ours: the config rewritten, and the weights under our names and layouts.

The imported adapter computes what PEFT's does. A field of its config that changes what it computes and has no
counterpart here is refused by its name; one that only says how training began is not looked at. Weights are read from
safetensors, never from pickles.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from subspace_tuning.aside import free, whole_folder
from subspace_tuning.convert.kinds import KINDS, Kind, Source
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.tuner.config import SubspaceConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHARED = (  # read by every type, as they are
    *("task_type", "base_model_name_or_path", "revision"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
)
OF_NO_EFFECT = {"peft_type", "peft_version", "auto_mapping", "inference_mode", "fan_in_fan_out", "runtime_config"}
CARD = "# A fine-tuned adapter\n\nTrained by PEFT ({kind}), kept here as `{method}`.\n"
ANY = 1 << 30  # a size at which every method can name its parameters


class Adapter(NamedTuple):
    """An adapter of PEFT's read as ours."""

    kind: str
    config: SubspaceConfig
    weights: dict[str, Tensor]


def config_from_peft(adapter: str | Path | PeftConfig) -> SubspaceConfig:
    """Our config for one of PEFT's: an adapter's folder, or a config. Raises BadInput for what has no counterpart."""
    if isinstance(adapter, PeftConfig):
        return _convert(*_kind_of(adapter.to_dict(), f"this {type(adapter).__name__}"))
    return read_peft(adapter).config


def read_peft(folder: str | Path) -> Adapter:
    """The adapter of a folder, its weights under our names. Raises BadInput for what cannot be imported whole."""
    folder = Path(folder)
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} is no adapter of PEFT's: cannot read {path}: {error}") from error
    kind, source = _kind_of(data, str(path))
    source = source._replace(weights=_load(folder))
    config = _convert(kind, source)
    return Adapter(kind.peft_type, config, _renamed(kind, source, config))


def import_peft(folder: str | Path, out: str | Path) -> SubspaceConfig:
    """Write the adapter of a folder as ours to a new folder; returns its config."""
    out = free(out)
    kind, config, weights = read_peft(folder)
    write_adapter(out, config, weights, CARD.format(kind=kind, method=config.method.describe()))
    return config


def write_adapter(out: Path, config: SubspaceConfig, weights: dict[str, Tensor], card: str) -> None:
    """An adapter's folder as PEFT reads it, all of it or nothing."""
    with whole_folder(out) as aside:
        save_file(weights, aside / WEIGHTS, metadata={"format": "pt"})
        (aside / "README.md").write_text(card, encoding="utf-8")
        config.save_pretrained(str(aside))


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


def _convert(kind: Kind, source: Source) -> SubspaceConfig:
    shared = {key: source.config[key] for key in SHARED if source.config.get(key) is not None}
    with as_bad_input((ValueError, TypeError, KeyError)):
        return SubspaceConfig(**shared, **kind.read(source))


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


def _renamed(kind: Kind, source: Source, config: SubspaceConfig) -> dict[str, Tensor]:
    """The weights under our names; heads and other modules that were saved whole keep theirs."""
    renamed: dict[str, Tensor] = {}
    held: dict[str, set[str]] = {}
    for key, value in (source.weights or {}).items():
        module, _, name = key.removesuffix(".weight").rpartition(".")
        if name in kind.names:
            method, ours = config.resolved(module.removeprefix("base_model.model.")), kind.names[name]
            with as_bad_input():
                renamed[f"{module}.subspace_params.{ours}"] = kind.rewrite(ours, value, method).contiguous()
            held.setdefault(module, set(method.parameters(ANY, ANY))).discard(ours)
        elif name in kind.dropped:
            continue
        elif not any(part.startswith(kind.prefix) for part in key.split(".")):
            renamed[key] = value.contiguous()
        else:
            raise BadInput(f"the adapter holds {key}, which PEFT's {kind.peft_type} knows and nothing here does")
    if not held:
        raise BadInput("the adapter holds no weights of its method; was it saved half-way?")
    for module, missing in held.items():
        if missing:
            raise BadInput(f"the adapter lacks {', '.join(sorted(missing))} of {module}; was it saved half-way?")
    return renamed
