"""What a method can make of a weight, as a function of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from subspace_tuning.algebra import Live, Weight
from subspace_tuning.method import Composition, Constants, Method, Params, Start

Values = dict[str, Tensor]


def changes_bias(method: Method) -> bool:
    """Whether a method is a map of the augmented weight [W; b^T] and not of W alone."""
    if isinstance(method, Composition):
        return any(changes_bias(f) for f in method.members)
    plain: Method = getattr(method, "method", method)  # of one that is held to a pattern
    return type(plain).bias is not Method.bias


class Reach:
    """values -> phi(W), with the bias as its last row where the method changes it.

    The expression is built once; ``trained`` are the parameters, ``resting`` all numbers as they start; ``stored`` are
    numbers that training would have found in the data.
    """

    def __init__(self, method: Method, W: Weight, seed: int = 0, stored: Mapping[str, Tensor] | None = None):
        method = method.with_fields(detach=False)  # derivatives here are those of phi itself
        n, m = W.shape
        self.method, self.W = method, W
        self.with_bias = changes_bias(method) and W.own_bias is not None
        constants = {k: v.detach() for k, v in method.constants(W).items()}
        self.trained = tuple(method.parameters(n, m))
        self._constants, self._stored = constants, dict(stored or {})
        self.resting = self.rested(seed)
        self._held: Values = {**constants, **self.resting}
        p = Params({k: Live(partial(self._held.__getitem__, k)) for k in self._held})
        self._E = method.phi(W, p)
        b = W.own_bias
        self._b = method.bias(Live.of(torch.clone, b), p) if self.with_bias else None

    def rested(self, seed: int) -> Values:
        """All numbers as they start from a seed."""
        (n, m), like = self.W.shape, self.W.dense()
        starts = self.method.parameters(n, m) | self.method.stored(n, m)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {k: _started(s, self._constants, like) for k, s in starts.items()} | self._stored

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """phi(W) (n, m), or [phi(W); b^T] (n + 1, m)."""
        self._held.update(values)
        E = self._E.dense()
        return E if self._b is None else torch.cat([E, self._b.now().unsqueeze(0)])

    def target(self, W_star: Weight) -> Tensor:
        """W*, or [W*; b*^T] where the method changes the bias."""
        b = W_star.own_bias
        return torch.cat([W_star.dense(), b.unsqueeze(0)]) if self.with_bias and b is not None else W_star.dense()


def _started(start: Start, constants: Constants, like: Tensor) -> Tensor:
    value = torch.empty(start.shape, dtype=start.dtype or like.dtype)
    start.fill(value, {k: v.cpu() for k, v in constants.items()})
    return value.to(like.device)
