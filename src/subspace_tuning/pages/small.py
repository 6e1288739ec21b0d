"""A method on a weight in R^{2 x 2}, small enough to be drawn: parameters as far from their start as can be seen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.algebra.live import now
from subspace_tuning.method.method import Method
from subspace_tuning.method.parameters import Params
from subspace_tuning.method.registry import METHODS
from subspace_tuning.method.strength import at_strength
from subspace_tuning.pages.panel import Map, panel, picture

W = torch.tensor([[1.1, 0.35], [-0.25, 0.6]], dtype=torch.float64)
FRAMES = 16  # from W to phi(W), and as many back
CHANGE = 0.5  # |phi(W) - W| / |W|
HALVINGS = 10
SMALL = {
    "r": 1,
    "init_r": 1,
    "b": 2,
    "directions": 1,
    "frequencies": 2,
    "share": 0.25,
    "factors": 1,
    "blocks": 1,
    "u": 2,
}
SMALL |= {"alpha": 1.0, "bound": 1.0, "length": 0.1}
PAIRED = {"r": 2}  # rotations and reflections come in pairs


def small(name: str) -> Method:
    """The method with fields that leave it something to do in R^{2 x 2}."""
    method = METHODS[name]()
    try:
        return method.with_fields(**SMALL)
    except ValueError:
        return method.with_fields(**SMALL | PAIRED)


def map_of(method: Method, p: Params, t: float = 1.0) -> Map:
    """Rows x to what becomes of x phi_t(W) and of the module's output, its bias being zero at the start."""
    part = at_strength(method, t)
    E, bias, output = part.phi(Weight(W), p), now(part.bias(W.new_zeros(2), p)), part.output(2, p)

    def mapped(x: Tensor) -> Tensor:
        y = E.apply(x) + bias
        return y if output is None else output.apply(y)

    return mapped


def plain(x: Tensor) -> Tensor:
    """x W."""
    return x @ W


def params(method: Method, values: Mapping[str, Tensor]) -> Params:
    return Params({**method.constants(Weight(W)), **values})


def moved(method: Method) -> Params:
    """Parameters along a random direction, at the first place where phi(W) is CHANGE from W, or as far as it comes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        constants = method.constants(Weight(W))
        starts = {**method.stored(2, 2), **method.parameters(2, 2)}
        values = {k: torch.empty(s.shape, dtype=s.dtype or W.dtype) for k, s in starts.items()}
        for name, start in starts.items():
            start.fill(values[name], constants)
        ways = {name: torch.randn_like(values[name]) for name in method.parameters(2, 2)}

    def at(way: float) -> Params:
        return params(method, values | {name: values[name] + way * g for name, g in ways.items()})

    def change(way: float) -> float:
        x = torch.eye(2, dtype=W.dtype)
        return float((map_of(method, at(way))(x) - W).norm() / W.norm())

    low, high = 0.0, 2.0**-6
    while change(high) < CHANGE and high < 2.0**6:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if change(middle) < CHANGE else (low, middle)
    return at(low)


def drawable(method: Method) -> bool:
    """What sits on tokens or on whole blocks leaves W as it is."""
    return method.sits_on in ("weight", "bias", "output")


def ellipse(name: str) -> str:
    """What the method makes of the ellipse {x W : |x| = 1}, moving from phi_0 = W to phi_1 = phi and back."""
    method = small(name)
    p = moved(method)
    maps = [map_of(method, p, i / FRAMES) for i in range(FRAMES + 1)]
    return picture(f"What {name} does to the ellipse of a weight", panel(plain, maps, (name, "")))
