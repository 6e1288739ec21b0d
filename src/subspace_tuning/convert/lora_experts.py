"""Changes of fused experts as PEFT's LoRA on ``target_parameters``: the factors of all experts in one A and one B.

PEFT keeps A as (e r, in) and B as (out, r e), experts outermost in A and innermost in B; one rank holds for all of
them, so that smaller ones are filled up with zeros. Where its modules go is asked of PEFT.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import pad

from subspace_tuning.convert.lora import Fitted, lora_config
from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights.experts import Experts, with_experts


class Stack(NamedTuple):
    """The experts of one parameter, and the factors of each."""

    fused: Experts
    fits: list[Fitted]

    @property
    def rank(self) -> int:
        return max(fitted.rank for fitted in self.fits)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (e, n, r), B (e, r, m)."""
        A = [pad(f.A, (0, self.rank - f.rank)) for f in self.fits]
        B = [pad(f.B, (0, 0, 0, self.rank - f.rank)) for f in self.fits]
        return torch.stack(A), torch.stack(B)


def apart(
    layers: Mapping[str, SubspaceLayer], fits: Mapping[str, Fitted]
) -> tuple[dict[str, nn.Module], dict[str, Stack]]:
    """What is to be written: the plain layers that change, and the experts that do, by the names of their layers."""
    plain: dict[str, nn.Module] = {}
    fused: dict[str, Stack] = {}
    for path, layer in layers.items():
        own = [fits[name] for part in layer.parts if (name := part.under(path)) in fits]
        if not any(fitted.rank for fitted in own):
            continue
        base: Any = layer.base_layer
        if isinstance(base, Experts):
            fused[path] = Stack(base, own)
        else:
            plain[path] = base
    return plain, fused


def placed(
    make_base: Callable[[], nn.Module], plain: Mapping[str, int], fused: Mapping[str, int], **values: Any
) -> tuple[LoraConfig, PeftModel]:
    """The config of a LoRA with these ranks on modules and on parameters of experts, and what PEFT makes of it.

    On some mixtures PEFT takes names of modules (gate_proj) for those that experts had in older checkpoints; then the
    modules' weights are named as parameters. Raises BadInput where it takes others than these all the same.
    """
    model, names = make_base(), {name: name for name in plain}
    for _ in range(2):
        ranks = {names[name]: rank for name, rank in plain.items()} | dict(fused)
        renamed = {names[name] for name in plain if names[name] != name}
        config = lora_config(model, ranks, {*_short(model, list(fused)), *renamed}, **values)
        theirs = get_peft_model(model, copy.deepcopy(config))  # type: ignore[arg-type]
        taken = {name for name, _ in seats(theirs)}
        if taken == {*plain, *fused}:
            return config, theirs
        names |= {name: f"{name}.weight" for name in set(plain) - taken}
        model = make_base()
    raise BadInput(
        f"PEFT takes other modules than these for a LoRA on experts of {type(model).__name__}: --to merged writes a "
        "plain model"
    )


def seats(theirs: nn.Module) -> Iterator[tuple[str, tuple[str, LoraLayer]]]:
    """PEFT's layers, by the names of the modules and fused experts that they sit on, with their own."""
    for path, module in theirs.named_modules():
        if isinstance(module, LoraLayer):
            name = path.removeprefix("base_model.model.").replace(".base_layer", "")
            own = getattr(module, "parameter_name", "weight")
            yield name if own == "weight" else f"{name}.{own}", (path, module)


def _short(model: nn.Module, names: list[str]) -> list[str]:
    """Names of parameters of experts below their blocks, where these select them and no other; else whole names."""
    every = [name for name, module in with_experts(model) if isinstance(module, Experts)]
    short = sorted({".".join(name.split(".")[-2:]) for name in names})
    meant = {name for name in every if any(name.endswith(f".{one}") for one in short)}
    return short if meant == set(names) else sorted(names)


def stored(theirs: PeftModel, stacks: Mapping[str, Stack]) -> dict[str, Tensor]:
    """The factors under PEFT's names and in its layout."""
    found = {}
    for name, (path, module) in seats(theirs):
        if name in stacks:
            A, B = stacks[name].factors()
            if _turned_by_peft(module, stacks[name].fused):
                A, B = B.mT, A.mT
            found[f"{path}.lora_A.weight"] = A.mT.flatten(0, 1).contiguous()
            found[f"{path}.lora_B.weight"] = B.permute(2, 1, 0).flatten(1).contiguous()
    return found


def factors(module: LoraLayer, fused: Experts, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A (e, n, r) and B (e, r, m) of a parameter of experts, from PEFT's."""
    A, B = A.unflatten(0, (fused.count, -1)).mT, B.unflatten(1, (-1, fused.count)).permute(2, 1, 0)
    return (B.mT, A.mT) if _turned_by_peft(module, fused) else (A, B)


def _turned_by_peft(layer: LoraLayer, fused: Experts) -> bool:
    """Whether PEFT takes (e, n, m) for (e, m, n): it goes by what the module that keeps the experts says alone."""
    return fused.turned and not getattr(layer.get_base_layer(), "is_transposed", False)
