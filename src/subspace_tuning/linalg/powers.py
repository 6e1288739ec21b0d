"""Powers of scales and of rotations: what lies between doing nothing (t = 0) and all of it (t = 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scale_power(delta: Tensor, t: float) -> Tensor:
    """d^t - 1 for d = 1 + delta, entry by entry; where d <= 0, which has no real powers, t (d - 1)."""
    positive = delta > -1
    power = torch.expm1(t * torch.log1p(torch.where(positive, delta, 0.0)))
    return torch.where(positive, power, t * delta)


def rotation_power(Q: Tensor, t: float) -> Tensor:
    """R^t - I for the rotation R = (I + Q) (I - Q)^{-1} of a skew-symmetric Q (..., b, b): t times each of its angles.

    Q = i V diag(l) V^H turns by the angles 2 atan(l), all below a half turn, so that R^t is the geodesic from I to R.
    """
    return _RotationPower.apply(Q, t)[0]


class _RotationPower(torch.autograd.Function):
    """Its gradient by Daleckii and Krein: equal eigenvalues, as at Q = 0, leave it what it is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(Q: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        l, V = torch.linalg.eigh(-1j * Q)  # noqa: E741
        half = t * torch.atan(l)
        turned = 2j * torch.sin(half) * torch.exp(1j * half)  # exp(2 i half) - 1, small angles too
        return ((V * turned.unsqueeze(-2)) @ V.mH).real, l, V

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, l, V = output  # noqa: E741
        ctx.t = inputs[1]
        ctx.mark_non_differentiable(l, V)
        ctx.save_for_backward(l, V)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (l, V), t = ctx.saved_tensors, ctx.t  # noqa: E741
        a, b = l.unsqueeze(-1), l.unsqueeze(-2)
        apart, met = a - b, 1 + a * b
        sine = torch.sin(t * torch.atan2(apart, met))
        slope = torch.where(apart == 0, t / met, sine / torch.where(apart == 0, 1.0, apart))
        quotients = 2j * slope * torch.exp(1j * t * (torch.atan(a) + torch.atan(b)))
        inner = quotients.conj() * (V.mH @ grads[0].to(V.dtype) @ V)
        return (1j * (V @ inner @ V.mH)).real, None
