"""What tells one weight from another: a hash of its numbers, whoever changed them and however."""

from __future__ import annotations

import torch
import xxhash
from torch import Tensor


def fingerprint(about: str, *tensors: Tensor) -> str:
    """The hash of a text and of the bytes of tensors, read in order."""
    found = xxhash.xxh3_128(about.encode())
    for t in tensors:
        found.update(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def laid_out(W: Tensor) -> Tensor:
    """W (n, m), or its transpose where that is how it lies in memory."""
    return W if W.is_contiguous() else W.T
