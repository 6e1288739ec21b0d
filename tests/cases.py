"""Every method with every variant, compositions and constraints; every kind of base weight."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from subspace_tuning import METHODS, SSB, BitFit, FLoRA, LoRA, SubspaceConfig, TriLoRA, calibrate
from subspace_tuning.method import Method
from subspace_tuning.methods import DoRA
from truths import VARIANTS


class Case(NamedTuple):
    """One way to fill a SubspaceConfig."""

    method: Method
    mpc: str | None = None

    def config(self, **values: Any) -> SubspaceConfig:
        return SubspaceConfig(method=self.method, mpc=self.mpc, **values)

    @property
    def resolved(self) -> Method:
        return self.config().resolved()

    def __str__(self) -> str:
        return self.resolved.describe().replace(" ", "")


ON_LAYERS = [name for name in sorted(METHODS) if METHODS[name].sits_on not in ("tokens", "block")]
SINGLE = [Case(METHODS[name](**fields)) for name in ON_LAYERS for fields in VARIANTS.get(name, [{}])]
COMPOSED = [
    Case(SSB() | LoRA(r=2)),
    Case(LoRA(r=2) | SSB()),
    Case(SSB() | BitFit()),
    Case(SSB() | FLoRA(r=2), "o"),
    Case(SSB() | DoRA(r=2)),  # the norms of a weight that is itself an expression
    Case(LoRA(r=2, dropout=0.5) | DoRA(r=2)),
]
CONSTRAINED = [
    *(Case(LoRA(r=3), mpc) for mpc in "odn"),
    *(Case(method, mpc) for method in (TriLoRA(r=3), FLoRA(r=3)) for mpc in "on"),
]
CASES = SINGLE + COMPOSED + CONSTRAINED


class Kind(NamedTuple):
    """A kind of base weight: a layer, inputs for it, and these inputs as rows of length n."""

    name: str
    layer: Callable[[], nn.Module]
    x: Callable[[int], Tensor]  # batch size -> input
    rows: Callable[[nn.Module, Tensor], Tensor]  # input -> (b, positions, n)
    matrix: Callable[[nn.Module], Tensor]  # W (n, m)

    def __str__(self) -> str:
        return self.name


def _patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return nn.functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).transpose(1, 2)


def _conv(**how: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(3, 10, (3, 2), **how)


def _conv_matrix(conv: nn.Conv2d) -> Tensor:
    return conv.weight.reshape(conv.out_channels, -1).T


def _biased_conv1d() -> nn.Module:
    layer = Conv1D(10, 14)
    nn.init.normal_(layer.bias)
    return layer


def _image(b: int) -> Tensor:
    return torch.randn(b, 3, 9, 8)


def _tokens(b: int) -> Tensor:
    return torch.randn(b, 5, 14)


KINDS = [
    Kind("linear", lambda: nn.Linear(14, 10), _tokens, lambda _, x: x, lambda f: f.weight.T),
    Kind("linear_wide", lambda: nn.Linear(14, 21), _tokens, lambda _, x: x, lambda f: f.weight.T),
    Kind("linear_no_bias", lambda: nn.Linear(14, 10, bias=False), _tokens, lambda _, x: x, lambda f: f.weight.T),
    Kind("conv1d", _biased_conv1d, _tokens, lambda _, x: x, lambda f: f.weight),
    Kind("conv2d", _conv(), _image, _patches, _conv_matrix),
    Kind("conv2d_moved", _conv(stride=(2, 1), padding=(1, 2), dilation=2), _image, _patches, _conv_matrix),
    Kind("conv2d_no_bias", _conv(bias=False, padding=1), _image, _patches, _conv_matrix),
    Kind(
        "embedding",
        lambda: nn.Embedding(17, 10),
        lambda b: torch.randint(17, (b, 5)),
        lambda f, x: nn.functional.one_hot(x, f.num_embeddings).to(f.weight.dtype),
        lambda f: f.weight,
    ),
]


class Net(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def sits(case: Case, kind: Kind) -> bool:
    """Whether the method has a seat on the layer: a bias, for methods that sit on biases only."""
    members = getattr(case.method, "members", (case.method,))
    return getattr(kind.layer(), "bias", None) is not None or all(f.sits_on != "bias" for f in members)


def tuned(case: Case, kind: Kind, *, init_weights: bool = False, dtype: torch.dtype = torch.float32, **config: Any):
    """A PEFT model of one layer with the case's adapter on it."""
    net = Net(kind.layer().to(dtype))
    config = case.config(target_modules=["layer"], init_weights=init_weights, **config)
    model = get_peft_model(net, config, autocast_adapter_dtype=False).eval()
    if case.resolved.calibration:
        calibrate(model, [inputs(kind, 9, dtype)], loss=lambda model, x: (model(x) - 1).float().square().mean())
        for value in () if init_weights else adapter_parameters(model).values():
            value.data.add_(torch.randn_like(value), alpha=0.1)
    return model


def inputs(kind: Kind, batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    x = kind.x(batch)
    return x.to(dtype) if x.is_floating_point() else x


def adapter_parameters(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """name -> parameter of an adapter, wherever it stands in the model."""
    return {k: p for k, p in model.named_parameters() if ".subspace_params." in k and f".{adapter}." in k}


def values_of(layer: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """The parameters of an adapter on one tuned layer, by the method's names."""
    return dict(layer.subspace_params[adapter].items())


def stored_numbers(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """name -> number of an adapter that is stored but not trained, wherever it stands in the model."""
    return {k: b for k, b in model.named_buffers() if ".subspace_stored." in k and f".{adapter}." in k}


def held_by(layer: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """The parameters and the stored numbers of an adapter on one tuned layer, by the method's names."""
    stored = layer.subspace_stored[adapter].items() if adapter in layer.subspace_stored else ()
    return {**dict(stored), **values_of(layer, adapter)}


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12)).item()


def _label(value: Any) -> str:
    if isinstance(value, Method):
        return value.describe().replace(" ", "")
    return getattr(value, "__name__", None) or str(value).replace("torch.", "")


def each(**grid: list) -> Any:
    """Parametrise over named lists, with readable ids."""

    def add(test: Any) -> Any:
        for name, values in grid.items():
            test = pytest.mark.parametrize(name, values, ids=_label)(test)
        return test

    return add


SEATED = [(case, kind) for case in CASES for kind in KINDS if sits(case, kind)]
UNSEATED = [(case, kind) for case in CASES for kind in KINDS if not sits(case, kind)]


seated = pytest.mark.parametrize(("case", "kind"), SEATED, ids=_label)
unseated = pytest.mark.parametrize(("case", "kind"), UNSEATED, ids=_label)
