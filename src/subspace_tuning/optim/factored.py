"""AdamW, but pairs of factors move by a rule of their own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from subspace_tuning.errors import BadInput
from subspace_tuning.optim.pairs import Pair
from subspace_tuning.optim.rates import groups, whole_pairs

Moves = tuple[Tensor, Tensor]  # by which A and B go down, times the learning rate


class FactoredAdamW(AdamW):
    """A <- A - lr (move + weight_decay A), B likewise; what is no factor moves by AdamW.

    What a rule remembers stands in the state of A, so that it is saved and loaded as AdamW's moments are.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float = 0.0, **of_adamw: Any):
        self.pairs = whole_pairs(model, type(self).__name__)
        factors = [p for pair in self.pairs for p in (pair.A, pair.B)]
        paired = {"params": factors, "lr": lr, "weight_decay": weight_decay}
        super().__init__([*groups(model, lr, weight_decay, apart=factors), paired], lr=lr, **of_adamw)

    @abstractmethod
    def moves(self, pair: Pair, gradients: Moves, state: dict[str, Any], group: dict[str, Any]) -> Moves:
        """The moves of A (..., n, r) and B (..., r, m); ``state["step"]`` counts from 1."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise BadInput(f"{type(self).__name__} takes no closure: compute the gradients before the step")
        group = next(g for g in self.param_groups if any(p is self.pairs[0].A for p in g["params"]))
        for pair in self.pairs:
            if (found := pair.gradients()) is not None:
                self._move(pair, found, group)
        grads = [(p, p.grad) for p in group["params"]]
        for p, _ in grads:
            p.grad = None
        super().step()
        for p, grad in grads:
            p.grad = grad

    def _move(self, pair: Pair, gradients: Moves, group: dict[str, Any]) -> None:
        state = self.state[pair.A]
        state["step"] = state.get("step", torch.zeros(())) + 1  # a tensor, as AdamW's loading expects
        for p, move in zip((pair.A, pair.B), self.moves(pair, gradients, state, group), strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * move)


def average(state: dict[str, Any], name: str, new: Tensor, beta: float) -> Tensor:
    """Adam's exponential average of what is remembered under a name, its start at zero corrected for."""
    old = state.get(name, torch.zeros_like(new))
    state[name] = (beta * old + (1 - beta) * new).contiguous()  # as it is when it has been saved
    corrected: Tensor = state[name] / (1 - beta ** float(state["step"]))
    return corrected
