"""What a model does to a tuned layer's output in place has the gradients of the same done out of place."""

from collections.abc import Callable

import torch
from torch import Tensor

from subspace_tuning.testing.cases import Case, adapter_parameters, tuned
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near


def residual(y: Tensor) -> Tensor:
    y += torch.linspace(-1, 1, y.shape[-1], dtype=y.dtype)
    return y


def rectified(y: Tensor) -> Tensor:
    return torch.relu_(y)


def doubled_in_part(y: Tensor) -> Tensor:
    y[..., 1:] *= 2
    return y


CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (residual, rectified, doubled_in_part)


@law()
def outputs_may_be_changed_in_place(case: Case, kind: Kind) -> None:
    model = tuned(case, kind, dtype=torch.float64)
    x, parameters = inputs(kind, dtype=torch.float64), list(adapter_parameters(model).values())
    for change in CHANGES:
        found = []
        for copied in (False, True):
            y = model(x)
            out = change(y.clone() if copied else y)
            found.append((out.detach().clone(), torch.autograd.grad(out.square().sum(), parameters)))
        (out, got), (want_out, want) = found
        near(out, want_out, 1e-12, f"the output {change.__name__} in place")
        for g, w in zip(got, want, strict=True):
            near(g, w, 1e-9, f"a gradient of the output {change.__name__} in place")
