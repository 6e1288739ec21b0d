"""Optimisers by name, as recipes and loops ask for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn
from torch.optim import Optimizer

from subspace_tuning.errors import BadInput, as_bad_input, nearest
from subspace_tuning.optim.lora_pro import LoRAPro
from subspace_tuning.optim.lora_rite import LoRARite
from subspace_tuning.optim.muon import Muon
from subspace_tuning.optim.rates import adamw, lora_plus
from subspace_tuning.optim.riemannian import riemannian

Make = Callable[..., Optimizer]


ANYWHERE = ("adamw", "adamw_8bit", "schedule_free")  # the others are for methods with factors A and B
IN_PIECES = (*ANYWHERE, "lora_plus")  # those that move each number by itself, whoever holds it
LIBRARIES = {  # AdamW's place is taken by a class of theirs
    "adamw_8bit": ("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
    "schedule_free": ("schedulefree", "schedulefree", "AdamWScheduleFree"),
}


def _of_library(name: str) -> Make:
    def make(model: nn.Module, lr: float, weight_decay: float = 0.0) -> Optimizer:
        check_installed(name)
        _, module, kind = LIBRARIES[name]
        return adamw(model, lr, weight_decay, kind=getattr(import_module(module), kind))

    return make


def check_installed(name: str) -> None:
    """Raise BadInput where an optimiser is of a library that is not there."""
    library = LIBRARIES.get(name, ("torch",))[0]
    if find_spec(library) is None:
        raise BadInput(f"optimizer: {name} is {library}'s, which is not installed: pip install {library}")


OPTIMISERS: dict[str, Make] = {
    "adamw": adamw,
    "lora_plus": lora_plus,
    "riemannian": riemannian,
    "lora_rite": LoRARite,
    "lora_pro": LoRAPro,
    "muon": Muon,
    **{name: _of_library(name) for name in LIBRARIES},
}


def check(optimizer: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the fields of an optimiser given by its name, or as a mapping with a name and fields.

    Raises BadInput for a name or a field that does not exist.
    """
    given = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
    name = given.pop("name", None)
    if name not in OPTIMISERS:
        hint = nearest(str(name), OPTIMISERS)
        raise BadInput(f"optimizer: {name!r} is not known: {hint}it is one of {', '.join(OPTIMISERS)}")
    fields = _fields(name)
    for key in given:
        if key not in fields:
            known = f"its fields are {', '.join(fields)}" if fields else "it has none"
            raise BadInput(f"optimizer: {name} has no field {key!r}: {nearest(key, fields)}{known}")
    return name, given


def _fields(name: str) -> list[str]:
    """What an optimiser takes as plain data, besides the learning rate and the decay."""
    taken = [k for k, p in inspect.signature(OPTIMISERS[name]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    return [key for key in taken if key != "kind"] + ["betas", "eps"] * (name not in LIBRARIES)


def create(
    optimizer: str | Mapping[str, Any], model: nn.Module, lr: float, weight_decay: float = 0.0, **fields: Any
) -> Optimizer:
    """An optimiser for all that is trained in a model, by name (or a mapping with a name and fields).

    Raises BadInput for what does not exist, a library that is missing, or a model without factors.
    """
    name, given = check(optimizer)
    with as_bad_input((ValueError, TypeError)):
        return OPTIMISERS[name](model, lr, weight_decay, **{**given, **fields})
