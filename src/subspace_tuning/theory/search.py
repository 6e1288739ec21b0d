"""Nonlinear least squares for methods without a closed form (Levenberg and Marquardt, matrix-free).

Each step minimises ||phi(p) + J d - W*||^2 + damping ||d||^2 over moves d of all parameters by conjugate gradients,
with J d and J^T r by automatic differentiation and each parameter measured by its own effect. A step is taken only
where it comes nearer to W*, so that the search never loses what it started from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Values = dict[str, Tensor]
PROBES = 4


@dataclass(frozen=True)
class Search:
    """When to stop.

    gain: the search is over when a step could gain, or several did gain, less than this part of ||W* - W||^2.
    tries: how many starts, the first being the method's own projection; more only while W* is not reached.
    steps, inner: at most so many, of the search and of conjugate gradients within each.
    within: conjugate gradients stop at this part of the first residual.
    """

    gain: float = 1e-5
    tries: int = 1
    steps: int = 30
    inner: int = 20
    within: float = 1e-2


PATIENT = Search(gain=1e-9, tries=3, steps=200, inner=40, within=1e-5)


class Found(NamedTuple):
    values: Values
    left: float  # ||W* - phi(W)||^2


def search(phi: Callable[[Values], Tensor], start: Values, target: Tensor, unit: float, how: Search) -> Found:
    """Parameters with phi as near to the target as a descent from the start finds; unit is ||W* - W||^2."""
    here = _Point(phi, start, target)
    damping, idle = 1e-3, 0
    for _ in range(how.steps):
        if here.left <= 1e-14 * unit or here.best_gain() <= how.gain * 0.1 * unit:
            break
        move, promised = here.move(damping, how)
        there = _Point(phi, {k: here.values[k] + move[k] for k in move}, target)
        gained = here.left - there.left
        if gained > 0:
            idle = idle + 1 if gained <= how.gain * unit else 0
            here = there
        damping *= 0.2 if gained > 0.75 * promised else 1.0 if gained > 0.25 * promised else 5.0
        if idle >= 3 or damping > 1e12:
            break
    return Found(here.values, here.left)


def first_order_gain(phi: Callable[[Values], Tensor], start: Values, target: Tensor, how: Search) -> float:
    """By how much ||target - phi||^2 falls at best if phi is as linear as it is at the start.

    That is the energy of the projection of target - phi onto the span of dphi.
    """
    return max(0.0, _Point(phi, start, target).move(0.0, how)[1])


class _Point:
    """Parameters, what they leave of the target, and its derivatives there."""

    def __init__(self, phi: Callable[[Values], Tensor], values: Values, target: Tensor):
        self.phi, self.values = phi, values
        reached, self._pull = torch.func.vjp(phi, values)  # type: ignore[misc]
        self.rest = target - reached
        self.left = _finite(self.rest.square().sum(dtype=torch.float64).item())
        self._toward: Values | None = None
        self._push: Callable[[Values], Any] | None = None

    @property
    def toward(self) -> Values:
        """J^T (target - phi): the direction in which the distance falls fastest."""
        if self._toward is None:
            (self._toward,) = self._pull(self.rest)
        return self._toward

    def pushed(self, move: Values) -> Tensor:
        """J d: the derivative of u -> J^T u, which is linear, so that one is made for all moves."""
        if self._push is None:
            _, self._push = torch.func.vjp(lambda u: self._pull(u)[0], self.rest)  # type: ignore[misc]
        return self._push(move)[0]

    def best_gain(self) -> float:
        """What the steepest descent gains by its best step."""
        g = self.toward
        size = self.pushed(g).square().sum().item()
        return _dot(g, g) ** 2 / size if size > 0 else 0.0

    def move(self, damping: float, how: Search) -> tuple[Values, float]:
        """The damped Gauss-Newton step and the gain that the linear model promises."""
        g, sizes = self.toward, self.sizes()
        d = {k: torch.zeros_like(v) for k, v in g.items()}
        r = dict(g)
        z = {k: r[k] / sizes[k] for k in r}
        p, rz = z, _dot(r, z)
        first = rz
        for _ in range(how.inner):
            (Ap,) = self._pull(self.pushed(p))
            Ap = {k: Ap[k] + damping * sizes[k] * p[k] for k in p}
            curvature = _dot(p, Ap)
            if not curvature > 0:
                break
            a = rz / curvature
            d = {k: d[k] + a * p[k] for k in d}
            r = {k: r[k] - a * Ap[k] for k in r}
            z = {k: r[k] / sizes[k] for k in r}
            rz, last = _dot(r, z), rz
            if rz <= how.within**2 * first:
                break
            p = {k: z[k] + (rz / last) * p[k] for k in p}
        return d, 2 * _dot(g, d) - self.pushed(d).square().sum().item()

    def sizes(self) -> Values:
        """The diagonal of J^T J, estimated by random signs, so that parameters of all scales move alike."""
        generator = torch.Generator().manual_seed(0)
        found = {k: torch.zeros_like(v) for k, v in self.values.items()}
        for _ in range(PROBES):
            signs = torch.randint(2, self.rest.shape, generator=generator, dtype=torch.int8)
            (pulled,) = self._pull(signs.to(self.rest).mul_(2).sub_(1))
            found = {k: found[k] + pulled[k].square() / PROBES for k in found}
        floor = max((v.max().item() for v in found.values() if v.numel()), default=0.0)
        return {k: v.clamp_min(max(1e-8 * floor, 1e-30)) for k, v in found.items()}


def _dot(a: Values, b: Values) -> float:
    return sum((a[k] * b[k]).sum(dtype=torch.float64).item() for k in a)


def _finite(value: float) -> float:
    return value if value == value else float("inf")
