"""Functional transforms of torch see through every method; what its kernels derive can be differentiated again."""

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from subspace_tuning.testing.cases import Case, adapter_parameters, tuned
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near


@law()
def gradients_of_each_sample_come_at_once(case: Case, kind: Kind) -> None:
    """vmap of grad gives what one backward pass a sample gives."""
    model = tuned(case, kind, dtype=torch.float64)
    x, parameters = inputs(kind, dtype=torch.float64), adapter_parameters(model)

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        y: Tensor = functional_call(model, values, (sample.unsqueeze(0),))
        return (y - 1).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))({k: p.detach() for k, p in parameters.items()}, x)
    for i in range(len(x)):
        want = torch.autograd.grad((model(x[i : i + 1]) - 1).square().sum(), list(parameters.values()))
        for name, w in zip(parameters, want, strict=True):
            near(each[name][i], w, 1e-9, f"the gradient of {name}")


@law(first=1)
def gradients_can_be_differentiated(case: Case, kind: Kind) -> None:
    """Twice by autograd is what grad of grad gives, which sees plain operations."""
    model = tuned(case, kind, dtype=torch.float64)
    x, parameters = inputs(kind, dtype=torch.float64), adapter_parameters(model)
    held = list(parameters.values())
    along = [torch.randn_like(p) for p in held]

    def loss(values: dict[str, Tensor]) -> Tensor:
        y: Tensor = functional_call(model, values, (x,))
        return y.square().sum()

    def slope(values: dict[str, Tensor]) -> Tensor:
        first = grad(loss)(values)
        return torch.stack([(first[k] * v).sum() for k, v in zip(parameters, along, strict=True)]).sum()

    firsts = torch.autograd.grad(model(x).square().sum(), held, create_graph=True)
    got = torch.autograd.grad(firsts, held, along)
    want = grad(slope)({k: p.detach() for k, p in parameters.items()})
    for name, g in zip(parameters, got, strict=True):
        near(g, want[name], 1e-8, f"the second derivative by {name}")
