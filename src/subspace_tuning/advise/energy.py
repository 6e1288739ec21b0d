"""Captured gradient energy: how much of the step W - eta G a family can take, to first order.

    kappa       1 - ||(-eta G) - (phi(W) - W)||^2 / ||eta G||^2, phi(W) nearest to W - eta G, eta small
    at start    ||P G||^2 / ||G||^2, P onto the span of dphi where training starts

The first is what the family could do from its best parameters (the ``project`` that `subspace fit` uses), the second
what its first step can do: LoRA's is held to the columns of its random A, whereas its family holds the r largest
singular values of G.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from subspace_tuning.advise.gradients import Gradients, Seat
from subspace_tuning.method import Method, Params, members
from subspace_tuning.methods.extend.lora import LoRA
from subspace_tuning.methods.extend.pissa import Instead
from subspace_tuning.theory.project import project
from subspace_tuning.theory.reach import Reach, changes_bias
from subspace_tuning.theory.search import Search, first_order_gain

ETA = 1e-3  # ||eta G|| over ||W||
PRODUCTS = (LoRA.phi, Instead.phi)  # whose A and B are all that is trained
OWN = Search(steps=0)  # a method's own projection, not searched on from
LINEAR = Search(inner=40, within=1e-2)
CHEAP = ("lora", "pissa", "ssb", "ssl", "ia3", "bitfit", "lora_xs", "vera")  # looked at where no methods are named


@dataclass(frozen=True)
class Captured:
    """One method on one weight: shares of the energy of G there, of [G; g] where the method changes the bias."""

    energy: float
    kappa: float | None  # None: there is no closed form of the projection
    start: float
    parameters: int


@dataclass(frozen=True)
class Family:
    """One method on the weights that it takes by default; ``energy`` is that of all weights of the model."""

    method: Method
    layers: dict[str, Captured]
    energy: float

    @property
    def kappa(self) -> float | None:
        """Of all gradient energy of the model, where the projections have closed forms."""
        if any(c.kappa is None for c in self.layers.values()):
            return None
        return sum((c.kappa or 0.0) * c.energy for c in self.layers.values()) / self.energy

    @property
    def start(self) -> float:
        return sum(c.start * c.energy for c in self.layers.values()) / self.energy

    @property
    def parameters(self) -> int:
        return sum(c.parameters for c in self.layers.values())

    def to_data(self) -> dict[str, Any]:
        told = {"name": self.method.name, "method": self.method.describe(), "kappa": self.kappa, "start": self.start}
        per = None if self.kappa is None else 1e6 * self.kappa / self.parameters
        return told | {
            "parameters": self.parameters,
            "kappa_per_million": per,
            "layers": {name: asdict(c) for name, c in self.layers.items()},
        }


def captured(method: Method, seat: Seat) -> Captured:
    """kappa and the energy at the start of a method on a weight. Raises ValueError where it cannot sit there.

    Reconstructions start where all that they reach is at hand, so that their first step can do what the family can.
    """
    method.check(*seat.shape)
    kappa = None
    if has_projection(method):  # W itself is in reach, however far the method's own projection is
        kappa = max(0.0, project(method, *seat.weights(ETA), OWN).captured_energy)
    start = kappa if kappa is not None and method.category == "reconstruction" else _at_start(method, seat)
    energy = seat.energy if changes_bias(method) else seat.energy_of_weight
    return Captured(energy, kappa, start, method.count(*seat.shape))


def _at_start(method: Method, seat: Seat) -> float:
    W, W_star = seat.weights(1.0, torch.float32)  # a linear question: the length of the step does not matter
    reach = Reach(method, W)
    if type(method).phi in PRODUCTS:
        return _along(*_factors(reach), cast(Tensor, seat.G))
    fixed = {k: v for k, v in reach.resting.items() if k not in reach.trained}
    trained = {k: reach.resting[k] for k in reach.trained}
    step = (reach.target(W_star) - reach.target(W)).square().sum(dtype=torch.float64).item()
    gain = first_order_gain(lambda p: reach({**fixed, **p}), trained, reach.target(W_star), LINEAR)
    return min(gain / step, 1.0) if step else 1.0


def _factors(reach: Reach) -> tuple[Tensor, Tensor]:
    """A and B as they stand where training starts."""
    p = reach.method.whole(Params(reach.method.constants(reach.W) | reach.resting))
    return p.A.dense(), p.B.dense()


def _along(A: Tensor, B: Tensor, G: Tensor) -> float:
    """The share of ||G||^2 in the span of dA B + A dB: G's part in the columns of A, the rest's in the rows of B."""
    left, right = _orthonormal(A), _orthonormal(B.T)
    within = left.T @ G
    beside = (G - left @ within) @ right
    held = within.square().sum(dtype=torch.float64) + beside.square().sum(dtype=torch.float64)
    return (held / G.square().sum(dtype=torch.float64)).item()


def _orthonormal(M: Tensor) -> Tensor:
    """A basis of the columns of M."""
    U, S, _ = torch.linalg.svd(M, full_matrices=False)
    return U[:, S.gt(1e-6 * S.max())]


def has_projection(method: Method) -> bool:
    """Whether the nearest phi(W) is told by the method itself and need not be searched for."""
    return all(type(f).project is not Method.project for f in members(method))


def fitted(method: Method, n: int, m: int) -> Method:
    """The method as it finds room on a weight; biases alone (n = 0) leave room for any."""
    return method.fitted(n, m) if n else method


def families(
    found: Gradients, methods: Iterable[Method], tick: Callable[[int], None] = lambda total: None
) -> list[Family]:
    """The methods with what they capture, the most first; those that sit on none of the weights are left out."""
    seats: list[tuple[Method, Sequence[Seat]]] = [(m, [s for s in found.of(m) if s.energy > 0]) for m in methods]
    total = sum(len(own) for _, own in seats)
    made = []
    for method, own in seats:
        layers = {}
        for seat in own:
            layers[seat.name] = captured(fitted(method, *seat.shape), seat)
            tick(total)
        if layers:
            made.append(Family(method, layers, found.energy))
    return sorted(made, key=lambda family: -(family.kappa if family.kappa is not None else family.start))
