"""What an adapter of PEFT's own says, in our words: keywords of our config, its tensors by our names and layouts.

A field of its config that changes what it computes and has no counterpart here is refused by its name; one that only
says how training began is not looked at. Weights are read from safetensors, never from pickles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.adapter_folder import CONFIG, read_config, read_tensors
from subspace_tuning.method import Method, declared
from subspace_tuning.methods import BOFT, OFT, LoKr, RoAd
from subspace_tuning.peft_types.kind import Kind, Source
from subspace_tuning.peft_types.table import KINDS

PREFIX = "base_model.model."
ANY = 1 << 30  # a size at which every method can name its parameters
SHARED = (  # read by every type, as they are
    *("task_type", "base_model_name_or_path", "revision"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
)
REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
COMPARED = {"init_lora_weights", "init_weights", *(f"{name}_config" for name in ("eva", "lora_ga", "corda", "kasa"))}
OF_NO_EFFECT = {"peft_type", "peft_version", "auto_mapping", "inference_mode", "fan_in_fan_out", "runtime_config"}


def from_config(config: PeftConfig) -> tuple[Kind, Source]:
    """The type and the plain data of one of PEFT's configs. Raises BadInput for what has no counterpart."""
    return _kind_of(config.to_dict(), f"this {type(config).__name__}")


def from_folder(folder: str | Path) -> tuple[Kind, Source]:
    """The type, the plain data and the weights of an adapter's folder. Raises BadInput for what has no counterpart."""
    folder = Path(folder)
    kind, source = _kind_of(read_config(folder), str(folder / CONFIG))
    weights = read_tensors(folder)
    if kind.prepared is not None:
        weights = dict(kind.prepared(source._replace(weights=weights)))
    for key, value in weights.items():
        if value.dtype not in REAL:
            raise BadInput(f"{key} of the adapter {folder} is stored as {value.dtype}, which PEFT trains nothing in")
    return kind, source._replace(weights=weights)


def keywords(kind: Kind, source: Source) -> dict[str, Any]:
    """What SubspaceConfig is made from."""
    if said := source.config.get("target_parameters"):
        raise BadInput(
            f"target_parameters={said!r}: what PEFT trained on parameters of experts is read by `subspace import` "
            "alone, which looks at the base model"
        )
    return {key: source.config[key] for key in SHARED if source.config.get(key) is not None} | kind.read(source)


def _kind_of(data: Any, where: str) -> tuple[Kind, Source]:
    found = data.get("peft_type") if isinstance(data, dict) else None
    name = str(getattr(found, "value", found))
    if name == "SUBSPACE":
        raise BadInput(f"{where} is of type SUBSPACE: it is an adapter of ours already, there is nothing to import")
    if name not in KINDS:
        raise BadInput(f"{where} is of PEFT's type {name}; those that can be imported are {', '.join(KINDS)}")
    kind = KINDS[name]
    _check_types(name, {key: data[key] for key in data if key in {*kind.fields, *SHARED} - COMPARED}, where)
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


def _check_types(peft_type: str, config: Mapping[str, Any], where: str) -> None:
    """Of the fields that are looked at; PEFT declares whole numbers for scales, and takes others."""
    loose = {key: round(v) if isinstance(v, float) and "alpha" in key else v for key, v in config.items()}
    with as_bad_input((ValueError, OverflowError)):
        declared.check(PEFT_TYPE_TO_CONFIG_MAPPING[peft_type], loose, where)  # type: ignore[index]


def renamed(kind: Kind, source: Source, method_of: Callable[[str], Method]) -> tuple[dict[str, Tensor], bool]:
    """The weights under our names, and whether any is packed; heads and other modules saved whole keep theirs.

    method_of: the method on a module, by its name.
    """
    found: dict[str, Tensor] = {}
    packed = False
    held: dict[str, dict[str, Tensor]] = {}
    for key, value in (source.weights or {}).items():
        module, _, name = key.removesuffix(".weight").rpartition(".")
        if name in kind.names:
            held.setdefault(module, {})[kind.names[name]] = value
        elif name not in kind.dropped:
            if any(part.startswith(kind.prefix) for part in key.split(".")):
                raise BadInput(f"the adapter holds {key}, which PEFT's {kind.peft_type} knows and nothing here does")
            found[key] = value.contiguous()
    if not held:
        raise BadInput("the adapter holds no weights of its method; was it saved half-way?")
    for module, theirs in held.items():
        with as_bad_input((ValueError, TypeError, IndexError, RuntimeError)):
            method = method_of(module.removeprefix(PREFIX))
            ours = {name: kind.rewrite(name, value, method).contiguous() for name, value in theirs.items()}
        _check_shapes(module, method, ours)
        whole = kind.whole(method)
        packed |= bool(whole)
        found |= {f"{module}.subspace_params.{whole.get(name, name)}": value for name, value in ours.items()}
    return found, packed


def _check_shapes(module: str, method: Method, given: Mapping[str, Tensor]) -> None:
    """Raise BadInput unless there is a weight in R^{n x m} for which the method has these parameters."""
    if not isinstance(method, LoKr) and (missing := sorted(set(method.parameters(ANY, ANY)) - set(given))):
        raise BadInput(f"the adapter lacks {', '.join(missing)} of {module}; was it saved half-way?")
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    dims = {size for shape in shapes.values() for size in shape}
    sizes = sorted({*dims, *(a * b for a, b in product(dims, dims)), ANY})
    if isinstance(method, BOFT | OFT):  # whose angles tell the inputs
        sizes += [2 * numbers // (method.b - 1) for numbers in dims]
    if isinstance(method, RoAd):  # and those of RoAd the outputs
        sizes += [2 * numbers // method.variant for numbers in dims]
    for n, m in product(sizes, sizes):
        if {name: start.shape for name, start in method.parameters(n, m).items()} == shapes:
            return
    raise BadInput(f"the adapter's {module} holds {shapes}, which {method.describe()} has for no weight")
