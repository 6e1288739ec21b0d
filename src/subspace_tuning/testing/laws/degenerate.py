"""Weights that decompositions and quotients stumble over: zeros, equal singular values, few of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.testing.cases import Case, adapter_parameters, sits, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near, require
from subspace_tuning.testing.laws.start import starts_at_W

STEPS = 12


def zeros(W: Tensor) -> Tensor:
    return torch.zeros_like(W)


def outputs_of_zeros(W: Tensor) -> Tensor:
    """As pruned neurons and some new layers have them."""
    W = W.clone()
    W[: len(W) // 2] = 0
    return W


def inputs_of_zeros(W: Tensor) -> Tensor:
    """Features that the layer does not look at."""
    return outputs_of_zeros(W.T).T


def equal_singular_values(W: Tensor) -> Tensor:
    U, _, Vt = torch.linalg.svd(W, full_matrices=False)
    made: Tensor = U @ Vt
    return made


def rank_one(W: Tensor) -> Tensor:
    return torch.outer(W[:, 0], W[0])


@law(where=sits, first=1, weight=[zeros, outputs_of_zeros, inputs_of_zeros, equal_singular_values, rank_one])
def degenerate_weights_train(case: Case, kind: Kind, weight: Callable[[Tensor], Tensor]) -> None:
    """The adapter starts where it says, and training goes down, not out of all bounds."""

    def layer() -> Any:
        made: Any = kind.layer()
        made.weight.data = weight(made.weight.data)
        return made

    model, x = tuned(case, kind._replace(layer=layer), init_weights=True), inputs(kind, 8)
    base = tuned_layer(model).base_layer
    if starts_at_W(case):
        near(model(x) + 1, base(x) + 1, 1e-5, "the output at the start")
    optimiser = torch.optim.Adam(adapter_parameters(model).values(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        losses.append((model.train()(x) - 0.5).square().mean())
        losses[-1].backward()
        for name, p in adapter_parameters(model).items():
            require(p.grad is None or p.grad.isfinite().all(), f"the gradient of {name} is not finite")
        optimiser.step()
    require(losses[-1].isfinite() and losses[-1] < 2 * losses[0] + 1, f"the loss goes from {losses[0]} to {losses[-1]}")
