"""A method as the laws see it: with its pattern, its truth, and a network of one layer that it tunes."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from torch import Tensor, nn

from subspace_tuning.method import Method
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.tuner.calibrate import calibrate
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.start import check_seat
from subspace_tuning.weights import Unsupported, weight_of


class Case(NamedTuple):
    """A method, the pattern it is held to, and its truth: the equation written once more, in plain dense tensors.

    truth: (method, W (n, m), b (m,) or None, parameters by name) -> phi(W), bias. For a method that is no map of the
        weight: (method, rows x (..., n), W, b, parameters) -> rows (..., m). Without one, the laws that compare with a
        truth are left out.
    several_valleys: (n, m) -> whether a search for the best fit to such a weight may end in a lesser valley.
    """

    method: Method
    mpc: str | None = None
    truth: Callable[..., Any] | None = None
    several_valleys: Callable[[int, int], bool] = lambda n, m: False

    def config(self, **values: Any) -> SubspaceConfig:
        """PEFT's config of the case, with these fields beside."""
        return SubspaceConfig(method=self.method, mpc=self.mpc, **values)

    @property
    def resolved(self) -> Method:
        return _resolved(self.method, self.mpc)

    def dense(self, W: Tensor, b: Tensor | None, p: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """phi(W) (n, m) and the bias (m,), by the truth."""
        assert self.truth is not None
        W, b = self.truth(self.resolved, W, b, p)
        return W, b

    def rows(self, x: Tensor, W: Tensor, b: Tensor | None, p: dict[str, Tensor]) -> Tensor:
        """x (..., n) -> (..., m), by the truth."""
        if not self.resolved.mergeable:
            assert self.truth is not None
            y: Tensor = self.truth(self.resolved, x, W, b, p)
            return y
        W, b = self.dense(W, b, p)
        return x @ W if b is None else x @ W + b

    def __str__(self) -> str:
        return self.resolved.describe().replace(" ", "")


@cache
def _resolved(method: Method, mpc: str | None) -> Method:
    return Case(method, mpc).config().resolved()


class Net(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def tuned(
    case: Case, kind: Kind, *, init_weights: bool = False, dtype: torch.dtype = torch.float32, **config: Any
) -> Any:
    """A PEFT model of one layer with the case's adapter on it."""
    net = Net(kind.layer().to(dtype))
    made = case.config(target_modules=["layer"], init_weights=init_weights, **config)
    model = get_peft_model(net, made, autocast_adapter_dtype=False).eval()
    if case.resolved.calibration:
        calibrate(model, [inputs(kind, 9, dtype)], loss=lambda model, x: (model(x) - 1).float().square().mean())
        for value in () if init_weights else adapter_parameters(model).values():
            value.data.add_(torch.randn_like(value), alpha=0.1)
    return model


def tuned_layer(model: Any) -> Any:
    """The layer that ``tuned`` put the adapter on."""
    return model.base_model.model.layer


def sits(case: Case, kind: Kind) -> bool:
    """Whether the method has a seat on the layer: a bias, for methods that sit on biases only."""
    return _sits(case.resolved, kind)


@cache
def _sits(method: Method, kind: Kind) -> bool:
    try:
        check_seat(method, weight_of(kind.layer()))
    except ValueError as error:  # too small a weight is no reason to leave a law out
        return not isinstance(error, Unsupported)
    return True


def adapter_parameters(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """name -> parameter of an adapter, wherever it stands in the model."""
    groups = (f".subspace_params.{adapter}.", f".subspace_shared.{adapter}.")
    return {k: p for k, p in model.named_parameters() if any(group in f".{k}" for group in groups)}


def stored_numbers(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """name -> number of an adapter that is stored but not trained, wherever it stands in the model."""
    return {k: b for k, b in model.named_buffers() if ".subspace_stored." in k and f".{adapter}." in k}


def values_of(layer: Any, adapter: str = "default") -> dict[str, Tensor]:
    """The parameters of an adapter on one tuned layer, by the method's names."""
    values: dict[str, Tensor] = layer.trained(adapter)
    return values


def held_by(layer: Any, adapter: str = "default") -> dict[str, Tensor]:
    """The parameters and the stored numbers of an adapter on one tuned layer, by the method's names."""
    stored = layer.subspace_stored[adapter].items() if adapter in layer.subspace_stored else ()
    return {**dict(stored), **values_of(layer, adapter)}
