"""The numbers that a run computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

SLOW = (
    "bf16: true on a machine without units for it: products take several times as long as in fp32 (bf16: auto does not)"
)
ON_X86 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # what torch 2.6 can be asked


def precision(model: Any, bf16: bool) -> AbstractContextManager[Any]:
    """As the model was trained: in bf16 where the recipe says so."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=bf16)


def has_bf16() -> bool:
    """Whether the machine has units for products in bfloat16; without them float32 is faster."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return True
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has for unit, has in known.items() if "bf16" in unit) or any(
        getattr(torch.cpu, asked, bool)() for asked in ON_X86
    )
