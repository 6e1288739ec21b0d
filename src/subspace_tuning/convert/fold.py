"""Scales of a layer's inputs, moved into the norm before it: phi(W) = diag(d) R, and x is a norm's output.

A norm ends with its own scales, norm(h) = z diag(w) + b, so that norm(h) diag(d) R = (z diag(w d) + b d) R: the norm
takes d, the weight what is left (SSL leaves W itself, bit for bit). This is exact where every layer that reads the norm
wants the same d, and nothing else reads it. Which layers read it is seen in a forward pass; that nothing else does is
tried out: with the norm scaled by powers of two and the rows of those layers' weights divided by them, logits must stay
the same to the last bit, in any precision. A residual stream that takes a norm's output (post-norm models), norms that
add 1 to their scales and shared weights do not pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from subspace_tuning.convert.change import Change, behind_scales, exact
from subspace_tuning.convert.layers import Written, seats, without, write
from subspace_tuning.convert.probe import Probe, answers
from subspace_tuning.weights import LayerWeight, Unsupported, weight_of
from subspace_tuning.weights.experts import Experts

SCALES = ("weight", "norm")
TRIED = 2  # rows of the probe on which a fold is tried out


@dataclass(frozen=True)
class Fold:
    """One norm with the scales d (n,) that it takes, and what is left to change in the layers that read it."""

    norm: str
    module: Any
    d: Tensor
    rests: dict[str, Change]

    def parameters(self) -> Iterator[Tensor]:
        held = (getattr(self.module, name, None) for name in ("weight", "bias"))
        return (p for p in held if p is not None)

    def written(self) -> Tensor:
        """The scales that the norm really takes: d but for rounding in its own precision."""
        w = exact(self.module.weight)
        return torch.where(w == 0, self.d, exact((w * self.d).to(self.module.weight.dtype)) / w)


@dataclass(frozen=True)
class Plan:
    """What goes into norms; without folds, nothing."""

    folds: list[Fold] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)  # norm -> folded, or why not

    def write(self, name: str, frozen: LayerWeight, change: Change) -> tuple[Written, str]:
        """Put into a layer what is its own; returns what that cost, and the norm with its scales."""
        fold = next((fold for fold in self.folds if name in fold.rests), None)
        if fold is None:
            return write(frozen, change), ""
        missed, _ = write(frozen, fold.rests[name])
        R, d = exact(frozen.dense()), fold.d.unsqueeze(1)
        gap = (fold.written().unsqueeze(1) - d) * R
        return Written((gap.square().sum().item() + (missed * d.abs().max().item()) ** 2) ** 0.5), fold.norm

    @torch.no_grad()
    def scale_norms(self) -> None:
        for fold in self.folds:
            for p in fold.parameters():
                p.copy_(exact(p) * fold.d)


@torch.no_grad()
def plan(model: PeftModel, inputs: Probe) -> Plan:
    """Which scales of the active adapters can go into norms."""
    held, layers = seats(model), _layers(model)
    found = {}
    for name, layer in held.items():
        if layer.frozen.holds_matrix and not isinstance(layer.base_layer, Experts):  # whose router reads the norm too
            split = behind_scales(layer, [a for a in model.active_adapters if a in layer.methods])
            if split is not None:
                found[name] = split
    folds, told = [], {}
    few = inputs._replace(inputs=inputs.inputs[:TRIED])
    for norm, (module, readers) in _readers(model, layers, few).items():
        scaled = [name for name in readers if name in found]
        if not scaled:
            continue
        d = found[scaled[0]][0]
        if any(name not in found or not torch.equal(found[name][0], d) for name in readers):
            told[norm] = f"what reads it wants different scales: {', '.join(readers)}"
        elif not _alone(model, module, [layers[name] for name in readers], few):
            told[norm] = f"not {', '.join(readers)} alone read it, or it does more with its scales than multiply"
        else:
            told[norm] = "folded"
            folds.append(Fold(norm, module, d, {name: found[name][1] for name in readers}))
    return Plan(folds, told)


def _layers(model: PeftModel) -> dict[str, LayerWeight]:
    """The layers with a matrix, tuned or not, under their names in the base model."""
    tuned = {name: layer.frozen for name, layer in seats(model).items()}
    inside = {id(frozen.layer) for frozen in tuned.values()}
    found = {}
    inner: Any = model.get_base_model()
    for name, module in inner.named_modules():
        if id(module) in inside or not isinstance(getattr(module, "weight", None), nn.Parameter) or name in tuned:
            continue
        try:
            found[name] = weight_of(module)
        except Unsupported:
            continue
    return {k: v for k, v in (tuned | found).items() if v.holds_matrix and not isinstance(v.layer, nn.Embedding)}


def _readers(
    model: PeftModel, layers: Mapping[str, LayerWeight], inputs: Probe
) -> dict[str, tuple[nn.Module, list[str]]]:
    """Modules that end with a scale for each feature, and the layers that are given what they put out."""
    put_out: list[tuple[str, Tensor]] = []
    found: dict[str, tuple[nn.Module, list[str]]] = {}
    inner: Any = model.get_base_model()

    def leaves(name: str, module: nn.Module, y: Any) -> None:
        if isinstance(y, Tensor):
            put_out.append((name, y))
            found.setdefault(name, (module, []))

    def enters(name: str, x: Any) -> None:
        for norm, y in put_out:
            if isinstance(x, Tensor) and x.data_ptr() == y.data_ptr() and x.shape[-1:] == y.shape[-1:]:
                readers = found[norm][1]
                readers += [name] if name not in readers else []

    with ExitStack() as stack:
        for name, module in inner.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.dim() == 1:
                hook = module.register_forward_hook(lambda m, _, y, name=name: leaves(name, m, y))
                stack.callback(hook.remove)
        for name, W in layers.items():
            hook = W.layer.register_forward_pre_hook(lambda _, x, name=name: enters(name, x[0] if x else None))
            stack.callback(hook.remove)
        with without(model):
            answers(inner, inputs)
    return {norm: (module, readers) for norm, (module, readers) in found.items() if readers}


def _alone(model: PeftModel, norm: Any, readers: list[LayerWeight], inputs: Probe) -> bool:
    """Whether scaling a norm and unscaling these layers changes no bit of the logits."""
    if any(W.quantised or W.shape[0] != norm.weight.numel() for W in readers):
        return False
    signs = torch.randint(2, norm.weight.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    d = torch.exp2(signs.to(torch.float64)).to(norm.weight.device)
    with without(model):
        before = answers(model, inputs)
        with _kept([norm, *(W.layer for W in readers)]):
            for p in (norm.weight, getattr(norm, "bias", None)):
                if p is not None:
                    p.mul_(d.to(p.dtype))
            for W in readers:
                W.assign(W.dense() / d.to(W.dense().dtype).unsqueeze(1), None)
            after = answers(model, inputs)
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@contextmanager
def _kept(modules: list[nn.Module]) -> Iterator[None]:
    """The modules' own parameters are put back in the end."""
    held = [(p, p.detach().clone()) for module in modules for p in module.parameters(recurse=False)]
    try:
        yield
    finally:
        for p, was in held:
            p.copy_(was)
