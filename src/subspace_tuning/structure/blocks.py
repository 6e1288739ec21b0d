"""The repeated blocks of a model, and what each of their weights is for.

Nothing runs and no number is read: names, sizes and the order in which modules were made say it all, so that a model on
the meta device will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from subspace_tuning.structure.roles import DOWN, EXPERTS, GATE, GATE_UP, UP, Weight, roles
from subspace_tuning.weights import Unsupported, weight_of
from subspace_tuning.weights.attention import InProjection, with_projections
from subspace_tuning.weights.experts import Experts, with_experts
from subspace_tuning.weights.slices import Slice


@dataclass(frozen=True)
class BlockWeight:
    """A weight of a block, W in R^{n x m}, and what it is for.

    name: the module's, in the model; of fused experts, the parameter's.
    block: the block that it is in, by the block's own name in the model.
    part: attention, cross-attention, feed-forward, experts, state-space, other.
    role: query, key, value, output; up, gate, down; in, out; with + where one weight serves several.
    """

    name: str
    block: str
    part: str
    role: str
    n: int
    m: int
    is_layer: bool = True
    copies: int = 1  # how many matrices of this size a parameter holds: experts

    @property
    def short(self) -> str:
        """Its name below the block."""
        return self.name.removeprefix(f"{self.block}.")

    @property
    def size(self) -> str:
        many = f"{self.copies} x " if self.copies > 1 else ""
        return f"{many}{self.n} x {self.m}"


@dataclass(frozen=True)
class Beside:
    """What a block holds beside its weights: matrices of which no role is known, and parameters of no layer.

    shape: W's, (n, m), of a layer that a method can sit on by its name; else the parameter's.
    """

    name: str
    block: str
    shape: tuple[int, ...]
    is_layer: bool

    @property
    def short(self) -> str:
        return self.name.removeprefix(f"{self.block}.")

    @property
    def size(self) -> str:
        return " x ".join(map(str, self.shape))


def read(model: nn.Module) -> list[BlockWeight]:
    """The weights of all blocks of a model, in the order of its modules."""
    modules = dict(outer_modules(model))
    found: list[BlockWeight] = []
    for block in _blocks(modules):
        inside = {name: module for name, module in modules.items() if name.startswith(f"{block}.")}
        layers = [w for name, module in inside.items() if (w := _layer(name[len(block) + 1 :], module))]
        spaces = [name[len(block) + 1 :] for name, module in inside.items() if hasattr(module, "A_log")]
        known = roles(layers, spaces)
        found += [BlockWeight(f"{block}.{w.name}", block, *known[w.name], w.n, w.m) for w in layers]
        found += [_experts(name, block, module) for name, module in inside.items() if isinstance(module, Experts)]
    return found


def beside(model: nn.Module, weights: list[BlockWeight]) -> list[Beside]:
    """What the blocks hold beside these weights: convolutions, embeddings, parameters of two dimensions and more."""
    modules, known = dict(outer_modules(model)), {w.name for w in weights}
    found: list[Beside] = []
    for block in _blocks(modules):
        for name, module in modules.items():
            if name.startswith(f"{block}.") and name not in known:
                found += _beside(name, block, module, known)
    return found


def _beside(name: str, block: str, module: nn.Module, known: set[str]) -> Iterator[Beside]:
    if isinstance(module, Experts | Slice):
        return
    try:
        W = weight_of(module)
        if W.holds_matrix:
            yield Beside(name, block, tuple(W.shape), True)
            return
    except Unsupported:
        pass
    for own, p in module._parameters.items():
        whole = f"{name}.{own.removesuffix('_bias')}"  # biases of experts belong to their weights
        seated = whole in known or (own == "in_proj_weight" and f"{name}.query" in known)
        if p is not None and p.dim() > 1 and not seated:
            yield Beside(f"{name}.{own}", block, tuple(p.shape), False)


def outer_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by name, those that are tuned as what they were before; experts and projections count as modules."""
    inside: list[str] = []
    for name, module in [*with_experts(model), *with_projections(model)]:
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside.append(f"{name}.")
            module = module.get_base_layer()
        yield name, module


def _blocks(modules: dict[str, nn.Module]) -> list[str]:
    """The outermost elements of lists that have modules of their own."""
    found: list[str] = []
    for name, module in modules.items():
        parent = modules.get(name.rpartition(".")[0])
        listed = isinstance(parent, nn.ModuleList | nn.Sequential) and name.rpartition(".")[2].isdigit()
        if not listed or isinstance(module, nn.ModuleList | nn.Sequential) or not any(True for _ in module.children()):
            continue
        if not any(name.startswith(f"{block}.") for block in found):
            found.append(name)
    return found


def _layer(name: str, module: nn.Module) -> Weight | None:
    """A layer that is a matrix, also over positions; quantised ones by the sizes they say."""
    m: Any = module
    if isinstance(module, Conv1D):
        return Weight(name, m.nx, m.nf)
    if isinstance(module, nn.Conv1d) and m.kernel_size == (1,):
        return Weight(name, m.in_channels, m.out_channels)
    if isinstance(module, Slice):
        return Weight(name, *weight_of(module).shape) if isinstance(module.host, InProjection) else None
    if isinstance(module, nn.Embedding | nn.Bilinear | Experts):
        return None
    if not isinstance(module, nn.Linear) and any(True for _ in module.children()):
        return None  # of a Linear these are its slices
    n, out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return Weight(name, n, out) if isinstance(n, int) and isinstance(out, int) else None


def _experts(name: str, block: str, fused: Experts) -> BlockWeight:
    """Experts that a module keeps as one parameter."""
    kind = name.rpartition(".")[2].lower()
    role = GATE_UP if "gate_up" in kind else DOWN if "down" in kind or kind in ("w2", "wo") else UP
    role = GATE if kind.startswith("gate_proj") else role
    return BlockWeight(name, block, EXPERTS, role, *fused.size, False, fused.count)


def language_tower(model: nn.Module) -> str:
    """The name of the language model in a model of several towers; empty where there is one, or they are peers."""
    config: Any = getattr(model, "config", None)
    if not isinstance(model, PreTrainedModel) or config is None or config.is_encoder_decoder:
        return ""
    text = config.get_text_config()
    if text is config:
        return ""
    try:
        words = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return ""
    towers = [
        name
        for name, module in model.named_modules()
        if name and isinstance(module, PreTrainedModel) and module.config.model_type == text.model_type
        if any(m is words for m in module.modules())
    ]
    if not towers:
        return ""
    causal = any(getattr(m, "is_causal", False) is True for m in model.get_submodule(towers[0]).modules())
    speaks = causal or text.is_encoder_decoder or text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return towers[0] if speaks else ""
