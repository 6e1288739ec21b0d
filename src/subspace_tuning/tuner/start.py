"""What a method has on a frozen weight before training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from subspace_tuning.method import Composition, Constants, Method, Start
from subspace_tuning.method.catalogue import by_forward_alone
from subspace_tuning.weights import LayerWeight, Unsupported
from subspace_tuning.weights.own_forward import OwnForward


class Started(NamedTuple):
    """By name, what W makes of the method, what is trained, and what is stored but not trained."""

    constants: dict[str, Tensor]
    params: dict[str, Tensor]
    stored: dict[str, Tensor]


def check_seat(method: Method, W: LayerWeight) -> None:
    """Raise Unsupported where W is no weight that the method could sit on, ValueError where it is too small.

    Of a layer of which only the forward is known, methods may read W where that can be read.
    """
    kind = type(W.layer).__name__
    for part in method.members if isinstance(method, Composition) else (method,):
        if part.sits_on == "bias" and W.own_bias is None:
            raise Unsupported(f"{part.name} sits on biases, and this {kind} has none; target layers with a bias")
        if part.sits_on == "weight" and not W.holds_matrix:
            raise Unsupported(f"{part.name} sits on weight matrices, and this {kind} holds none; leave it out")
        if part.sits_on == "weight" and W.built:
            check_built(part, f"no row meets all of the weight of {kind}")
    W.check()
    if isinstance(W, OwnForward) and not by_forward_alone(method):
        W.dense()
    method.check(*W.shape)


def check_built(method: Method, why: str) -> None:
    """Raise Unsupported where phi(W) of a method says less than the method does, and is all that there is."""
    if not method.mergeable:
        raise Unsupported(f"{method.name} is no map of the weight alone, and {why}; leave it out")
    if getattr(getattr(method, "method", method), "dropout", 0):
        raise Unsupported(f"dropout drops entries of rows, and {why}: set dropout=0 there, or leave it out")
    if method.calibration:
        raise Unsupported(f"{method.describe()} starts from the rows that it sees, and {why}; leave it out")


def start(method: Method, W: LayerWeight, like: Tensor) -> Started:
    """What the method starts from, kept as ``like`` is where it says nothing else."""
    n, m = W.shape
    constants = {k: v.detach() if v.requires_grad else v for k, v in method.constants(W).items()}
    constants = {k: torch.zeros_like(v, device=like.device) if v.is_meta else v for k, v in constants.items()}
    params = {k: _filled(s, constants, like) for k, s in method.parameters(n, m).items()}
    stored = {k: _filled(s, constants, like) for k, s in method.stored(n, m).items()}
    return Started(constants, params, stored)


def _filled(start: Start, constants: Constants, like: Tensor) -> Tensor:
    """Filled in single precision or better."""
    codes = not like.is_floating_point() or like.element_size() == 1
    own = torch.get_default_dtype() if codes else like.dtype
    dtype = start.dtype or own
    wide = torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype
    value = torch.empty(start.shape, device=like.device, dtype=wide)
    if not value.is_meta:
        start.fill(value, constants)
    return value.to(dtype)
