"""Frozen weights that PEFT writes beside an adapter on an embedding or output layer, which it leaves as they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from subspace_tuning.peft_types.read import PREFIX

INFIX = ".base_layer."


def kept_apart(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a checkpoint holds of an adapter; and the frozen tensors of its modules that it keeps along, by name."""
    along = {key for key in weights if INFIX in key and _is_tuned(key.rpartition(INFIX)[0], weights)}
    frozen = {key.removeprefix(PREFIX).replace(INFIX, "."): weights[key] for key in along}
    return {key: value for key, value in weights.items() if key not in along}, frozen


def other_than(model: nn.Module, frozen: Mapping[str, Tensor]) -> str | None:
    """The first of these tensors that a model does not have, or has with other numbers."""
    own = {key.replace(INFIX, "."): value for key, value in model.state_dict().items()} if frozen else {}
    for name, value in frozen.items():
        here = own.get(name)
        if here is None or here.shape != value.shape:
            return name
        if not here.is_meta and not torch.equal(here.cpu(), value.to("cpu", here.dtype)):
            return name
    return None


def _is_tuned(module: str, weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(f"{module}.") and INFIX not in key for key in weights)
