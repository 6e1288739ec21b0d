"""Frozen layers whose tensors are kept in pieces, a piece a process: FSDP2 (DTensor) and DeepSpeed's ZeRO-3.

An equation reads W whole, one layer at a time. Tensor parallelism computes with the pieces themselves: what methods
read there is no W, and it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from subspace_tuning.tuner.whole import like, whole
from subspace_tuning.weights import Unsupported


def in_pieces(layer: nn.Module) -> bool:
    """Whether some tensor of a layer is not whole in this process."""
    held = () if torch.compiler.is_compiling() else layer._parameters.values()
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in held)


@contextmanager
def gathered(layer: nn.Module) -> Iterator[None]:
    """Within this, a layer holds its tensors whole; what was written is kept. All processes enter it alike."""
    layer = getattr(layer, "host", layer)
    if not in_pieces(layer):
        yield
        return
    held: dict[str, Any] = dict(layer._parameters)
    pieces = {name: p for name, p in held.items() if isinstance(p, DTensor) or hasattr(p, "ds_id")}
    with _of_zero([p for p in pieces.values() if hasattr(p, "ds_id")]):
        brought: dict[str, Any] = {
            name: nn.Parameter(whole(p.detach()).clone(), requires_grad=p.requires_grad) for name, p in pieces.items()
        }
        versions = {name: p._version for name, p in brought.items()}
        layer._parameters.update(brought)
        try:
            yield
        finally:
            for name, p in pieces.items():
                now: Any = layer._parameters[name]
                if now is not brought[name] or now._version != versions[name]:
                    with torch.no_grad():
                        p.copy_(like(p, now.detach()))
                layer._parameters[name] = p


def _of_zero(partitioned: list[nn.Parameter]) -> Any:
    if not partitioned:
        return nullcontext()
    from deepspeed.zero import GatheredParameters

    return GatheredParameters(partitioned, modifier_rank=0)


def check_not_split(model: nn.Module) -> None:
    """Raise Unsupported where a tensor parallel plan has each process compute with its own part of a weight."""
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise Unsupported(
            f"this model is split by a tensor parallel plan (tp_plan, {model._tp_size} processes), of which each holds "
            "and multiplies its own part of a weight, and methods are equations on whole weights: load it without "
            "tp_plan, and share it out by FSDP2"
        )
