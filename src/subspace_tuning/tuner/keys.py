"""The keys of a checkpoint: which module and which parameter of a method each of them names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from subspace_tuning.peft_types.read import PREFIX
from subspace_tuning.tuner.shared import HOME

INSIDE = ("base_layer", "original_module", "modules_to_save")  # parts of a tuned model that the base model lacks
GROUPS = ("subspace_params", "subspace_stored")


def paths_in(key: str) -> Iterator[str]:
    """Every run of parts of a key: a.b.c -> a, a.b, b, ..."""
    parts = key.split(".")
    return (".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))


def seat(key: str) -> tuple[str, str] | None:
    """The module and the parameter that a key names, or None for a key of a module that was saved whole."""
    *path, group, name = ["", "", *key.removeprefix(PREFIX).split(".")]
    return (".".join(path[2:]), name) if group in GROUPS else None


def is_shared(key: str) -> bool:
    return key.startswith(f"{PREFIX}{HOME}.")


def renamed_key(key: str, paths: Mapping[str, str], today: Callable[[str], str]) -> str:
    path, group, name = next((key.partition(f".{group}.") for group in GROUPS if f".{group}." in key), (key, "", ""))
    return f"{paths[path]}{group}{name}" if group else today(key)


def is_own(name: str) -> bool:
    return not any(part in INSIDE or part.startswith("subspace_") for part in name.split("."))


def heads(model: nn.Module, adapter: str) -> Iterator[str]:
    """The keys under which a checkpoint holds modules that are saved whole."""
    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            yield from (f"{name}.{key}" for key in module.adapter_state_dict_load_map(adapter))
