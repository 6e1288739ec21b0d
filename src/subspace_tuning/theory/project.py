"""The best that a family can do: its parameters with phi(W) nearest to W* in Frobenius distance.

Fine-tuning looks for the largest projection of the optimal weight W* onto what phi can reach (arXiv:2407.05417,
eqs. (1)-(4)). A method's own ``project`` gives it where there is a closed form; from there, or from where training
starts, a search goes on as long as it comes nearer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Composition, Method
from subspace_tuning.theory.reach import Reach, Values
from subspace_tuning.theory.search import Found, Search, search


def captured_energy(W: Tensor, W_star: Tensor, W_tuned: Tensor) -> float:
    """1 - ||W* - phi(W)||^2 / ||W* - W||^2, all (n, m): which part of the way to W* the family can go."""
    return 1 - _energy(W_star - W_tuned) / _energy(W_star - W)


def optimal_scale(W: Tensor, W_star: Tensor, dW: Tensor) -> float:
    """s* = <W* - W, dW> / ||dW||^2, all (n, m): the scale at which W + s dW is nearest to W* (eq. (20))."""
    size = _energy(dW)
    return ((W_star - W) * dW).sum(dtype=torch.float64).item() / size if size else 0.0


@dataclass(frozen=True)
class Projection:
    """The parameters (and stored numbers) of the best fit, and how near it comes."""

    values: Values
    whole: float  # ||W* - W||^2, of the augmented weights where the method changes the bias
    left: float  # ||W* - phi(W)||^2
    scale: float  # s* of phi(W) - W: 1 for families that hold every multiple of what they reach

    @property
    def captured_energy(self) -> float:
        return 1 - self.left / self.whole if self.whole else 1.0


def project(
    method: Method,
    W: Weight,
    W_star: Weight,
    how: Search | None = None,
    seed: int = 0,
    stored: Mapping[str, Tensor] | None = None,
) -> Projection:
    """The projection of W* onto what a method can make of W. Raises ValueError where the method is no map of a weight.

    W and W_star carry their biases; a method that changes the bias is judged on [W; b^T], any other on W. ``stored``
    are numbers that data gave (the start of LoRA-GA), where they are known.
    """
    if not method.mergeable or method.sits_on == "output":
        raise ValueError(f"{method.describe()} is not a map of the weight: there is nothing to project on")
    method.check(*W.shape)
    how = how or Search()
    reach = Reach(method, W, seed, stored)
    target, base = reach.target(W_star), reach.target(W)
    whole = _energy(target - base)
    best: Found | None = None
    for start in _starts(reach, W_star, how.tries):
        found = _descend(reach, start, target, whole, how)
        best = found if best is None or found.left < best.left else best
        if best.left <= how.gain * whole:
            break
    assert best is not None
    reached = reach(best.values)
    return Projection(best.values, whole, best.left, optimal_scale(base, target, reached - base))


def _descend(reach: Reach, start: Values, target: Tensor, whole: float, how: Search) -> Found:
    fixed = {k: v for k, v in start.items() if k not in reach.trained}

    def phi(values: Values) -> Tensor:
        return reach({**fixed, **values})

    found = search(phi, {k: start[k] for k in reach.trained}, target, whole, how)
    return found._replace(values={**fixed, **found.values})


def _starts(reach: Reach, W_star: Weight, tries: int) -> Iterator[Values]:
    """Where to search from: the method's own projection, or where training starts."""
    method, W = reach.method, reach.W
    if not isinstance(method, Composition):
        yield reach.resting | method.project(W, W_star)
        yield from (reach.rested(seed) for seed in range(1, tries))
        return
    target = reach.target(W_star)
    for i in range(len(method.members)):  # the best of one member alone, then of the others on what that one left
        values = dict(reach.resting)
        for j in (i, *(k for k in range(len(method.members)) if k != i)):
            dense = reach(values)
            W_tuned = Weight(dense[: W.shape[0]], dense[-1] if reach.with_bias else W.own_bias)
            aim = _sum(W, W_star, W_tuned) if j != i else W_star
            own = {f"{j}_{k}": v for k, v in method.members[j].project(W, aim).items()}
            trial = values | own
            if _energy(target - reach(trial)) <= _energy(target - dense):
                values = trial
        yield values


def _sum(W: Weight, W_star: Weight, W_tuned: Weight) -> Weight:
    """W* with what is reached already taken away, as if the members added up."""
    b, b_star, b_tuned = W.own_bias, W_star.own_bias, W_tuned.own_bias
    bias = None if b is None or b_star is None or b_tuned is None else b_star - b_tuned + b
    return Weight(W_star.dense() - W_tuned.dense() + W.dense(), bias)


def _energy(M: Tensor) -> float:
    return M.square().sum(dtype=torch.float64).item()
