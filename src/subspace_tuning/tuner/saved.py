"""What a checkpoint holds of one adapter: all of it, whatever the adapters are called, and nothing of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import _CHECKPOINT_PREFIX

from subspace_tuning.method.parameters import within
from subspace_tuning.tuner.layer import BASE, SubspaceLayer
from subspace_tuning.tuner.shared import HOME, SharedParameters

HELD = ("subspace_params", "subspace_stored", HOME)  # what is saved of a layer, and of what layers share


def check_name(adapter: str) -> None:
    """Raise ValueError for a name under which torch keeps nothing."""
    if not adapter or "." in adapter or adapter == BASE or hasattr(nn.ModuleDict(), adapter):
        raise ValueError(
            f"an adapter cannot be called {adapter!r}: give it a name that has no dot, is not {BASE!r} and "
            "no attribute of torch's modules"
        )


def named_layers(model: nn.Module, adapter: str) -> Iterator[tuple[str, SubspaceLayer]]:
    """The layers that an adapter sits on."""
    return ((k, m) for k, m in _named(model) if isinstance(m, SubspaceLayer) and adapter in m.methods)


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by their names in a state: those of activation checkpointing's wrappers are not in it."""
    return ((k.replace(_CHECKPOINT_PREFIX, ""), m) for k, m in model.named_modules())


def each_as(held: dict[str, Tensor], head: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Put other parameters where those of one layer stand in a checkpoint."""
    if values := within(held, head):
        for name in values:
            del held[head + name]
        held.update({head + name: value for name, value in change(values).items()})


def nameless(key: str, adapter: str) -> str:
    """A key of the model as a checkpoint has it, without the adapter's name."""
    for group in HELD:
        head, found, name = f".{key}".rpartition(f".{group}.{adapter}.")
        if found:
            return f"{head}.{group}.{name}"[1:]
    return key


def of_model(held: dict[str, Tensor], model: nn.Module, adapter: str) -> dict[str, Tensor]:
    """What layers share, by the keys of the model, in a checkpoint; PEFT does so for what is on layers."""
    here = {nameless(key, adapter): key for key, _, _ in _belongings(model, adapter) if f".{HOME}." in f".{key}"}
    here |= {f"base_model.model.{name}": key for name, key in here.items()}  # with an adapter of transformers' own
    return {here.get(name, name): value for name, value in held.items()}


def of_adapter(state: dict[str, Tensor], model: Any, adapter: str) -> dict[str, Tensor]:
    """What is trained and stored of an adapter on its layers, out of a model's state.

    PEFT has dropped from the state every key in which the name of another adapter stands; what belongs to this one,
    in modules to save too, is put back. Raises ValueError for a tensor that is not whole here (sharded models).
    """
    for key, value, shape in _belongings(model, adapter):
        if key not in state:
            if value.shape != shape or not value.numel():
                raise ValueError(
                    f"{key} would not be saved, because one of the adapters {sorted(model.peft_config)} is called like "
                    "a part of it; give that adapter another name"
                )
            state[key] = value.detach()
    return {key: state[key] for key, _, _ in _belongings(model, adapter) if nameless(key, adapter) != key}


def _belongings(model: nn.Module, adapter: str) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """key, tensor and whole shape of all that is saved under an adapter's name."""
    for path, module in _named(model):
        path = path.removeprefix("_fsdp_wrapped_module.")
        if isinstance(module, SubspaceLayer) and adapter in module.methods:
            shapes = module.shapes(adapter)
            for name in HELD[:2]:
                group = getattr(module, name)
                for key, value in group[adapter].items() if adapter in group else ():
                    yield f"{path}.{name}.{adapter}.{key}", value, shapes[key]
        elif isinstance(module, SharedParameters) and adapter in module:
            for key, value in module[adapter].named_parameters():
                yield f"{path}.{adapter}.{key}", value, module.shapes[adapter][key]
        elif isinstance(module, AuxiliaryTrainingWrapper):
            whole = _tensors(module.original_module)
            for key, value in within(_tensors(module), f"modules_to_save.{adapter}.").items():
                yield f"{path}.modules_to_save.{adapter}.{key}", value, whole[key].shape


def _tensors(module: Any) -> dict[str, Tensor]:
    """As ``state_dict``, and no rank waits for another (sharded models)."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def check_fits(state: dict[str, Tensor], model: nn.Module, adapter: str) -> None:
    """Raise ValueError where a checkpoint has other parameters than the method that stands under its name."""
    here = {key: shape for key, _, shape in _belongings(model, adapter) if nameless(key, adapter) != key}
    given = {key for key in state if any(f".{group}." in f".{key}" for group in HELD)}
    missing, unknown = sorted(here.keys() - given), sorted(given - here.keys())
    method = next((layer.methods[adapter].describe() for _, layer in named_layers(model, adapter)), "on no layer")
    if missing or unknown:
        raise ValueError(
            f"the checkpoint does not hold the adapter {adapter!r} as it stands in the model, {method}: "
            f"{len(missing)} of {len(here)} tensors are missing{_first(missing)}, {len(unknown)} are unknown"
            f"{_first(unknown)}; to load another adapter, delete this one or give the new one a name of its own"
        )
    if other := sorted(key for key in given if tuple(state[key].shape) != here[key]):
        key = other[0]
        raise ValueError(
            f"size mismatch: {key} is {tuple(state[key].shape)} in the checkpoint and {here[key]} in the model, as are "
            f"{len(other)} of {len(here)} tensors of {adapter!r}: it is of another model, or not of {method}"
        )


def _first(keys: list[str]) -> str:
    return f" ({keys[0]}, ...)" if keys else ""
