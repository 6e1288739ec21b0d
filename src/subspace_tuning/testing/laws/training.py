"""Training moves exactly the method's parameters, and forms nothing of the weight's size."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from subspace_tuning.method import members
from subspace_tuning.testing.cases import Case, adapter_parameters, sits, tuned, tuned_layer, values_of
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near, relative, require, snapshot, unchanged
from subspace_tuning.weights import weight_of

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mul", "convolution_backward", "embedding_dense_backward", "sum"}


class BiggestProducts(TorchDispatchMode):
    """Records the sizes of what products compute while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            outs = out if isinstance(out, tuple | list) else (out,)
            self.sizes += [o.numel() for o in outs if isinstance(o, Tensor)]
        return out


@law()
def gradients_reach_exactly_the_methods_parameters(case: Case, kind: Kind) -> None:
    model = tuned(case, kind).train()
    mine, layer = adapter_parameters(model), tuned_layer(model)
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    require(trained == set(mine), f"of the adapter's parameters and the trained ones differ {trained ^ set(mine)}")
    named = set(case.resolved.parameters(*kind.matrix(layer.base_layer).shape))
    require(set(values_of(layer)) == named, f"the layer holds {sorted(values_of(layer))}, expected {sorted(named)}")
    (model(inputs(kind)) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        if name in mine:
            require(parameter.grad is not None and parameter.grad.abs().max() > 0, f"no gradient reaches {name}")
        else:
            require(parameter.grad is None, f"a gradient reaches {name}, which is frozen")


def trains_little(case: Case, kind: Kind) -> bool:
    """Fewer numbers than W has, and neither method nor kind says that nothing cheaper than a dense gradient exists."""
    W = weight_of(kind.layer())
    rebuilds = case.resolved.rebuilds or W.built
    return sits(case, kind) and case.resolved.count(*W.shape) < math.prod(W.shape) and not rebuilds


@law(where=trains_little)
def no_dense_weight_gradient_is_computed(case: Case, kind: Kind) -> None:
    """Neither for a few rows nor for many."""
    model = tuned(case, kind).train()
    n, m = kind.matrix(tuned_layer(model).base_layer).shape
    for batch in (1, 31):
        x = inputs(kind, batch)
        x.requires_grad_(x.is_floating_point())
        y = model(x).pow(2).sum()
        with BiggestProducts() as products:
            y.backward()
        require(products.sizes, f"backward of {batch} samples computed no product")
        require(n * m not in products.sizes, f"backward of {batch} samples forms {n} x {m} numbers, as many as W has")
        require(x.grad is not None or not x.is_floating_point(), "no gradient reaches the input")


@law()
def optimiser_steps_change_the_output(case: Case, kind: Kind) -> None:
    """From the true start, and no parameter is born in forward, where an optimiser would never see it."""
    model = tuned(case, kind, init_weights=True).train()
    x = inputs(kind)
    before = dict(model.named_parameters())
    start = model.eval()(x).detach()
    model.train()
    optimiser = torch.optim.Adam(before.values(), lr=0.05)
    base = tuned_layer(model).base_layer
    frozen = snapshot(base)
    initial = {k: p.detach().clone() for k, p in before.items()}
    for _ in range(3):
        optimiser.zero_grad()
        (model(x) - 1).pow(2).sum().backward()
        optimiser.step()
    after = dict(model.named_parameters())
    same = {k: id(p) for k, p in after.items()} == {k: id(p) for k, p in before.items()}
    require(same, "parameters came, went or were replaced in forward")
    require(relative(model.eval()(x), start) > 1e-4, "three steps did not change the output")
    for name in adapter_parameters(model):
        require(not torch.equal(after[name], initial[name]), f"{name} did not move in three steps")
    unchanged(base, frozen)


@law()
def training_mode_changes_nothing_but_dropout(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    x = inputs(kind)
    calm = model(x)
    model.train()
    if case.resolved.noisy:
        require(relative(model(x), model(x)) > 1e-3, "the method is declared noisy, and two passes are the same")
    elif any(getattr(getattr(f, "method", f), "dropout", 0) for f in members(case.method)):
        copies = x.repeat(10, *[1] * (x.dim() - 1))  # each row draws its own
        outs = torch.cat([model(copies).unflatten(0, (10, -1)) for _ in range(40)])
        require(relative(outs[0], outs[1]) > 1e-3, "dropout changes nothing")
        near(outs.mean(0), calm, 0.25, "the mean output under dropout")  # the rows are kept in expectation
    else:
        torch.testing.assert_close(model(x), calm)
