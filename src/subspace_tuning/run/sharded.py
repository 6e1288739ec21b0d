"""A model and an optimiser whose tensors FSDP2 keeps in pieces, saved and loaded whole: as one process would."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from subspace_tuning.tuner.saved import HELD
from subspace_tuning.tuner.whole import like, whole


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state with all that is trained or stored gathered, tensor by tensor; W stays in its pieces."""
    found = {}
    for key, t in model.state_dict(keep_vars=True).items():
        needed = t.requires_grad or any(f".{group}." in f".{key}" for group in HELD)
        found[key] = whole(t.detach()).cpu() if needed and isinstance(t, DTensor) else t.detach()
    return found


def blocks(model: Any) -> list[str]:
    """The classes of modules to be sharded each by itself; accelerate takes the input embedding apart too."""
    embedding = model.get_input_embeddings()
    there = {type(m).__name__ for m in model.modules()}
    around = {type(m).__name__ for m in model.modules() if m is not embedding and embedding in m.modules()}
    return sorted(there.intersection(getattr(model, "_no_split_modules", None) or ()) - around)


def takes_whole(model: nn.Module) -> None:
    """From now on the model takes a state of whole tensors, each process its pieces."""
    model.register_load_state_dict_pre_hook(_in_pieces)


def _in_pieces(model: nn.Module, state: dict[str, Any], *args: Any) -> None:
    own = model.state_dict()
    for key in state.keys() & own.keys():
        state[key] = _as(own[key], state[key])


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """As its ``state_dict``, whole."""
    return _each(optimizer.state_dict(), whole)


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Take a whole state; moments are kept as their parameters are."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    own = {
        place: {name: _as(params[place], t) if _is_like(t, params[place]) else t for name, t in moments.items()}
        for place, moments in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": own})


def _is_like(t: Any, p: Tensor) -> bool:
    return isinstance(t, Tensor) and t.shape == p.shape


def _as(kept: Tensor, t: Tensor) -> Tensor:
    if not isinstance(kept, DTensor) or isinstance(t, DTensor):
        return t
    return like(kept, t.to(kept.device, kept.dtype))


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: _each(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each(v, change) for v in value)
    return value
