"""Where equations stumble: scales at zero and below, full ranks, numbers that are none, inputs changed meanwhile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from subspace_tuning.testing.cases import Case, adapter_parameters, held_by, tuned, values_of
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, mergeable, near, require
from subspace_tuning.testing.laws.truth import Setup, has_truth, same

BELOW = (-1.0, -1.7, -1.0, 0.4)  # deviations from one: scales of 0, -0.7, 0 and 1.4


def scales_of(named: dict[str, Any]) -> dict[str, Any]:
    """Of what a method trains, by name, the deviations of scales from one."""
    return {k: p for k, p in named.items() if k.rstrip("12").endswith("delta") and len(p.shape) == 1}


def has_scales(case: Case, kind: Kind) -> bool:
    return has_truth(case, kind) and bool(scales_of(case.resolved.parameters(*kind.matrix(kind.layer()).shape)))


@law(where=has_scales, first=1)
def scales_may_be_zero_and_negative(case: Case, kind: Kind) -> None:
    """Output and gradients are the dense truth where single scales are zero, and where all of them are."""
    model, layer, W, b = Setup.of(case, kind)
    x, values = inputs(kind, dtype=torch.float64), values_of(layer)
    for among in (BELOW, (-1.0,)):
        for p in scales_of(values).values():
            p.data = torch.tensor(among, dtype=p.dtype).repeat(len(p))[: len(p)]
        copies = {k: v.detach().clone().requires_grad_() for k, v in values.items()}
        truth = kind.own(
            layer.base_layer, case.rows(kind.rows(layer.base_layer, x), W, b, {**held_by(layer), **copies})
        )
        y = kind.outputs(model(x))
        same(y, truth, f"the output with deviations {among}")
        pull = torch.randn_like(y)
        got = torch.autograd.grad((y * pull).sum(), list(values.values()))
        want = torch.autograd.grad((truth * pull).sum(), list(copies.values()))
        for name, g, w in zip(values, got, want, strict=True):
            same(g, w, f"the gradient of {name} with deviations {among}", 1e-8)


def ranked(case: Case, kind: Kind) -> bool:
    return mergeable(case, kind) and hasattr(case.method, "r") and not case.resolved.calibration


@law(where=ranked, first=1)
def a_rank_may_be_that_of_the_weight(case: Case, kind: Kind) -> None:
    """r = min(n, m): the adapter trains, and what is merged is what was computed."""
    k = min(kind.matrix(kind.layer()).shape)
    whole = case._replace(method=case.method.with_fields(r=k, init_r=k, max_r=k))
    model, x = tuned(whole, kind, dtype=torch.float64), inputs(kind, dtype=torch.float64)
    y = model(x)
    y.square().sum().backward()
    for name, p in adapter_parameters(model).items():
        require(p.grad is not None and p.grad.isfinite().all(), f"the gradient of {name} is not finite")
    model.merge_adapter()
    near(model(x), y, 1e-9, "the output once it is merged")


def _spoilt(kind: Kind, value: float) -> Callable[[], nn.Module]:
    def layer() -> Any:
        made: Any = kind.layer()
        made.weight.data.view(-1)[3] = value
        return made

    return layer


@law(first=1, value=[float("nan"), float("inf")])
def a_weight_that_is_no_number_is_told_or_passed_on(case: Case, kind: Kind, value: float) -> None:
    """What needs its decomposition says so in a sentence; what does not computes what the layer without it does."""
    try:
        model = tuned(case, kind._replace(layer=_spoilt(kind, value)), init_weights=True)
        y = model(inputs(kind))
    except ValueError as error:
        said = str(error)
        require("NaN" in said and "\n" not in said, f"the refusal should be a sentence of NaNs, got {said!r}")
        return
    require(not y.isfinite().all(), "a weight with NaN gives numbers as if it had none")


@law(first=1)
def inference_mode_computes_the_same_and_leaves_nothing(case: Case, kind: Kind) -> None:
    """Also where the very first pass is in it; training comes after as if that had not been."""
    model, x = tuned(case, kind), inputs(kind)
    if case.resolved.noisy:
        return
    with torch.inference_mode():
        first = model(x)
    with torch.no_grad():
        require(torch.equal(model(x), first), "the output differs from that without gradients")
    y = model.train()(x)
    y.square().sum().backward()
    for name, p in adapter_parameters(model).items():
        require(p.grad is not None and p.grad.isfinite().all(), f"{name} has no gradient after inference")


@law(first=1)
def inputs_changed_in_place_are_noticed_or_do_not_matter(case: Case, kind: Kind) -> None:
    """After the forward pass: the gradients are those of the input as it was, or torch says that it was changed."""
    model, x = tuned(case, kind, dtype=torch.float64), inputs(kind, dtype=torch.float64)
    parameters = list(adapter_parameters(model).values())
    want = torch.autograd.grad(model(x.clone()).square().sum(), parameters)
    for whence in (x.clone(), x.clone().requires_grad_() * 1.0):
        loss = model(whence).square().sum()
        with torch.no_grad():
            whence.mul_(3.0)
        try:
            got = torch.autograd.grad(loss, parameters)
        except RuntimeError as error:
            require("modified by an inplace operation" in str(error), f"another refusal: {error}")
            continue
        for g, w in zip(got, want, strict=True):
            near(g, w, 1e-9, "a gradient after the input was changed in place")
