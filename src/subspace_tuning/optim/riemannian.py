"""Riemannian preconditioning: each factor's gradient in the metric that the other factor gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from subspace_tuning.errors import BadInput
from subspace_tuning.optim.pairs import Pair
from subspace_tuning.optim.rates import Kind, groups, whole_pairs


def riemannian(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    damping: float = 1e-2,
    kind: Kind = AdamW,
    **of_kind: Any,
) -> Optimizer:
    """An optimiser of any kind on preconditioned gradients.

    G_A (B B^T + damping I)^{-1} and (A^T A + damping I)^{-1} G_B for A in R^{n x r}, B in R^{r x m}. Raises
    BadInput for a negative damping, a model without factors or with sharded ones, and, at a step, for a closure.
    Source: arXiv:2402.02347.
    """
    if not damping >= 0:
        raise BadInput(f"riemannian: damping is a number >= 0, got {damping!r}")
    pairs = whole_pairs(model, "riemannian")
    made = kind(groups(model, lr, weight_decay), lr=lr, **of_kind)

    @torch.no_grad()
    def precondition(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (args[1] if len(args) > 1 else kwargs.get("closure")) is not None:
            raise BadInput("riemannian changes the gradients at a step: compute them before, and give no closure")
        for pair in pairs:
            _precondition(pair, damping)

    made.register_step_pre_hook(precondition)
    return made


def _precondition(pair: Pair, damping: float) -> None:
    found = pair.gradients()
    if found is not None:
        (A, B), (of_A, of_B) = pair.whole(), found
        pair.A.grad.copy_(of_A @ inverse(B @ B.mT, damping))  # type: ignore[union-attr]
        pair.B.grad.copy_(inverse(A.mT @ A, damping) @ of_B)  # type: ignore[union-attr]


def inverse(gram: Tensor, damping: float = 0.0) -> Tensor:
    """(gram + damping I)^{-1} of a symmetric (..., r, r) without negative eigenvalues, or its pseudo-inverse."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    found: Tensor = torch.linalg.pinv(gram + damping * eye, hermitian=True)
    return found
