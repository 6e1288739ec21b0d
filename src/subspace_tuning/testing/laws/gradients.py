"""Gradients of parameters are as exact as rounding allows, for biases and scales as models have them."""

import copy
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.testing.cases import Case, adapter_parameters, sits, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, relative, require

BIASES = (0.0, 1.0, 17.0, 1700.0)  # times the norm of x W, column by column
SCALES = (0.1, 3.0)
ROUNDINGS = {
    torch.float32: 64,
    torch.bfloat16: 24,
    torch.float16: 24,
}  # what sums and products in between may add up to


def biased(case: Case, kind: Kind) -> bool:
    return sits(case, kind) and kind.name in ("linear", "conv2d")


@law(where=biased, dtype=list(ROUNDINGS))
def gradients_are_as_exact_as_rounding_allows(case: Case, kind: Kind, dtype: torch.dtype) -> None:
    """Beside double precision on the same numbers: biases up to 1,700 times x W, scales of 0.1 to 3, some negative."""
    for bias in BIASES:
        exact, x = _with_bias(case, kind, bias, dtype)
        rough = copy.deepcopy(exact).float()
        tuned_layer(rough).base_layer.to(dtype)
        y = exact(x.double())
        pull = torch.randn_like(y).to(dtype)
        (y * pull.double()).sum().backward()
        (rough(x) * pull).sum().backward()
        got: dict[str, Any] = {k: p.grad for k, p in adapter_parameters(rough).items()}
        for name, p in adapter_parameters(exact).items():
            assert p.grad is not None
            if p.numel() == 1:  # one number, of which terms of all the rows may leave next to nothing
                continue
            off = relative(got[name], p.grad)
            near_enough = off < ROUNDINGS[dtype] * torch.finfo(dtype).eps
            require(near_enough, f"with a bias {bias:g} times x W the gradient of {name} is off {off:.1e}")


def _with_bias(case: Case, kind: Kind, bias: float, dtype: torch.dtype) -> tuple[Any, Tensor]:
    """A model in double precision whose base has numbers of another, and rows for it."""

    def layer() -> Any:
        made: Any = kind.layer().to(dtype).double()
        size = (made.weight.square().sum() / made.bias.numel()).sqrt()  # of x W, for normal rows
        made.bias.data = (bias * size * torch.randn_like(made.bias)).to(dtype).double()
        return made

    model = tuned(case, kind._replace(layer=layer), init_weights=True, dtype=torch.float64)
    low, high = SCALES
    for name, p in adapter_parameters(model).items():
        if ".delta" in name and p.dim() == 1:
            scale = torch.empty_like(p).uniform_(low, high) * torch.where(torch.rand_like(p) < 0.3, -1.0, 1.0)
            p.data = (scale - 1).float().double()
        else:
            p.data = (p + 0.1 * torch.randn_like(p)).float().double()
    return model, inputs(kind, 40, dtype)
