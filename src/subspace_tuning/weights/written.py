"""What is written into a layer is read back and compared: a write that did not take is an error, never a silence."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

GROSS = 0.5  # of ||phi(W)||: no quantiser of two bits or more that works misses that much
WAYS_OUT = (
    "load the base model in 16 or 32 bits to merge into it, keep the adapter unmerged, or export it as a LoRA "
    "(--to lora --rank N) to serve beside the quantised model"
)


class NotTaken(RuntimeError):
    """Raised where a layer does not hold what was written into it; the layer is as it was."""


class Survived(NamedTuple):
    """What is left of dW = phi(W) - W in a quantised weight.

    error: ||Q(phi(W)) - W_q - dW|| / ||dW|| in Frobenius norm; 0 where dW is. changed: the share of codes that changed.
    """

    error: float
    changed: float


def check_taken(layer: Any, name: str, held: Tensor, wanted: Tensor) -> None:
    """Raise NotTaken unless a plain tensor of a layer holds what was written, in its own precision."""
    if held.is_meta:
        raise NotTaken(
            f"the {name} of {type(layer).__name__} has no numbers here (it is offloaded): nothing is written"
        )
    want = wanted.to(held)
    if not bool(((held == want) | ((held != held) & (want != want))).all()):
        raise NotTaken(f"{type(layer).__name__} did not take its new {name}: what is read back is something else")


def check_near(kind: str, wanted: Tensor, after: Tensor) -> None:
    """Raise NotTaken where a quantised weight is not near what was written into it."""
    size, missed = wanted.norm(), (after - wanted).norm()
    if not bool(missed <= GROSS * size):
        raise NotTaken(
            f"{kind} did not take its new weight: what is read back is off by {float(missed / size):.2g} of its norm"
        )


def check_survived(kind: str, before: Tensor, wanted: Tensor, left: Survived) -> None:
    """Raise NotTaken where nothing of a change is left; warn where what is left of it is worse than none of it."""
    if not bool((wanted - before).norm() > 8 * torch.finfo(before.dtype).eps * before.norm()):
        return
    if not left.changed and left.error > 0.9:  # scales of outputs may be in the scales of the codes alone
        raise NotTaken(
            f"nothing of the change survives in {kind}: the steps of the quantised weight are larger; {WAYS_OUT}"
        )
    if left.error > 1:
        warnings.warn(
            f"{kind} takes the change with an error of {left.error:.2g} of its norm, worse than without it: {WAYS_OUT}",
            stacklevel=4,
        )


def survived(before: Tensor, wanted: Tensor, after: Tensor, changed: float) -> Survived:
    """Of dW = wanted - before, what the requantised weight holds."""
    before, wanted, after = (t.to(torch.float64) for t in (before, wanted, after))
    size = float((wanted - before).norm())
    return Survived(float((after - wanted).norm()) / size if size else 0.0, changed)
