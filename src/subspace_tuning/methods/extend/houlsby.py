"""Houlsby adapter: a bottleneck after each sub-layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.algebra import Elementwise, Expr, Identity, Shift
from subspace_tuning.method import Method, Params, Start, kaiming, zeros
from subspace_tuning.method.registry import register

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def nonlinearity(name: str, r: int) -> Elementwise:
    """h on r features."""
    return Elementwise(NONLINEARITIES[name], r)


def check_nonlinearity(method: str, h: str) -> None:
    if h not in NONLINEARITIES:
        raise ValueError(f"{method}: h is one of {', '.join(NONLINEARITIES)}, got {h!r}")


@dataclass(frozen=True)
class Bottleneck(Method):
    """y -> y + h(y A + a) B + b, on the output y of a module: the part that serial adapters share.

    A in R^{m x r}, a in R^r, B in R^{r x m} and b in R^m; B and b start at zero, so that the adapter starts as the
    identity. Fields: size r of the bottleneck and its nonlinearity h.
    """

    r: int = 8
    h: str = "relu"

    category = "extension"
    formula = "2 m r + r + m"
    sits_on = "output"
    wide = True
    mergeable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonlinearity(self.name, self.h)

    def parameters(self, n: int, m: int) -> dict[str, Start]:
        return {"A": kaiming(m, self.r), "a": zeros(self.r), "B": zeros(self.r, m), "b": zeros(m)}

    def output(self, m: int, p: Params) -> Expr:
        return Identity(m) + p.A @ Shift(p.a) @ nonlinearity(self.h, self.r) @ p.B @ Shift(p.b)


@register("houlsby")
@dataclass(frozen=True)
class Houlsby(Bottleneck):
    """y -> y + h(y A + a) B + b, after attention and after the feed-forward.

    Two in each block, on the outputs of the sub-layers' last weights. The paper starts near the identity, from small
    random numbers; here B starts at zero, and the adapter as the identity itself.
    Source: arXiv:1902.00751; arXiv:2407.05417, eq. (27).
    """

    h: str = "gelu"

    paper = "arXiv:1902.00751"
    places = "sublayer_outputs"
