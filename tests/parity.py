"""What PEFT calls our parameters, method by method: the one table behind the parity tests."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import peft
import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn

from cases import KINDS, Kind, Net
from subspace_tuning import IA3, SSL, LoRA, SubspaceConfig
from subspace_tuning.method import Method
from subspace_tuning.methods import IA3Output

Layout = Callable[[Tensor], Tensor]  # a rearrangement of entries, so that gradients are rearranged alike

BY_NAME = {kind.name: kind for kind in KINDS}
LINEAR = ("linear", "linear_wide", "linear_no_bias")
DENSE = (*LINEAR, "conv1d")
CONV = ("conv2d", "conv2d_moved", "conv2d_no_bias")
UNDILATED = ("conv2d", "conv2d_no_bias")  # PEFT's LoRA forgets the dilation of a convolution
ALL = (*DENSE, *UNDILATED, "embedding")


def transposed(t: Tensor) -> Tensor:
    """(out, in...) as torch holds it -> (in, out) as the equations write it."""
    return t.flatten(1).T


def flat(t: Tensor) -> Tensor:
    return t.flatten()


class Pair(NamedTuple):
    """A method here and the config of the same in PEFT."""

    title: str
    ours: Method
    theirs: Callable[..., PeftConfig]
    names: dict[str, tuple[str, Layout]]  # our parameter -> PEFT's attribute of the layer, and how its entries lie
    kinds: tuple[str, ...] = DENSE
    share: Callable[[Any, Any], None] = lambda theirs, ours: None  # hand PEFT's random projections to our layer

    def __str__(self) -> str:
        return self.title


LORA = {"A": ("lora_A", transposed), "B": ("lora_B", transposed)}
IA3_D = {"d": ("ia3_l", flat)}


def lora(**values: Any) -> Callable[..., PeftConfig]:
    return lambda **where: peft.LoraConfig(r=3, lora_alpha=5, **values, **where)


def ia3(feedforward: bool) -> Callable[..., PeftConfig]:
    return lambda **where: peft.IA3Config(**where, feedforward_modules=["layer"] if feedforward else [])


PAIRS = [
    Pair("lora", LoRA(r=3, alpha=5), lora(), LORA, ALL),
    Pair("rslora", LoRA(r=3, alpha=5, rank_stabilized=True), lora(use_rslora=True), LORA, ALL),
    Pair("ia3_output", IA3Output(), ia3(False), IA3_D, (*DENSE, *CONV)),
    Pair("ia3", IA3(), ia3(False), IA3_D, ("linear_no_bias", "conv2d_no_bias")),
    Pair("ia3_feedforward", SSL(), ia3(True), IA3_D),
]


class Difference(NamedTuple):
    """Where an equation and PEFT's differ: the reason, and a pair and kind of weight on which it shows."""

    reason: str
    pair: Pair
    kind: str


DIFFERENCES = {
    "ia3": Difference(
        "the paper's equation (10) scales W and leaves the bias alone; PEFT scales the module's output, bias included "
        "(ia3_output is that equation)",
        Pair("ia3", IA3(), ia3(False), IA3_D),
        "linear",
    ),
}


class Both(NamedTuple):
    """The same layer with PEFT's adapter and with ours."""

    pair: Pair
    theirs: nn.Module
    ours: nn.Module

    @classmethod
    def of(cls, pair: Pair, kind: Kind) -> "Both":
        net = Net(kind.layer())
        theirs = get_peft_model(copy.deepcopy(net), pair.theirs(target_modules=["layer"]))
        ours = get_peft_model(net, SubspaceConfig(method=pair.ours, target_modules=["layer"]))
        both = cls(pair, theirs, ours)
        pair.share(*both.layers())
        with torch.no_grad():
            for name, (their, our, layout) in both.parameters().items():
                their.add_(torch.randn_like(their), alpha=0.2)
                assert our.shape == layout(their).shape, name
                our.copy_(layout(their))
        return both

    def layers(self) -> tuple[Any, Any]:
        return self.theirs.base_model.model.layer, self.ours.base_model.model.layer

    def parameters(self) -> dict[str, tuple[Tensor, Tensor, Layout]]:
        """Our name -> PEFT's tensor, ours, and the layout that leads from one to the other."""
        theirs, ours = self.layers()
        mine = dict(ours.subspace_params["default"].items())
        assert set(mine) == set(self.pair.names), "the table names every parameter of the method"
        found = {k: (_held(theirs, name), mine[k], layout) for k, (name, layout) in self.pair.names.items()}
        trained = sum(p.requires_grad for p in self.theirs.parameters())
        assert trained == len(found), "the table names every parameter of PEFT's layer"
        return found


def _held(layer: Any, name: str) -> Tensor:
    """PEFT's tensor by the attribute that holds it, and a name within that where it is not ``weight``."""
    attribute, _, within = name.partition(".")
    groups = [getattr(layer, attribute), getattr(layer, attribute.replace("lora_", "lora_embedding_"), {})]
    value = next(group["default"] for group in groups if "default" in group)
    return value if isinstance(value, Tensor) else getattr(value, within or "weight")
