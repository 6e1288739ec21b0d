"""Which parameters take which learning rate and decay: AdamW as transformers' Trainer sets it up, and LoRA+."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from transformers.trainer_pt_utils import get_parameter_names

from subspace_tuning.errors import BadInput
from subspace_tuning.optim.pairs import Pair, pairs_of
from subspace_tuning.tuner.shared import HOME

Groups = list[dict[str, Any]]
Kind = Callable[..., Optimizer]
NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]  # as Trainer has them


def groups(model: nn.Module, lr: float, weight_decay: float, apart: Iterable[nn.Parameter] = ()) -> Groups:
    """All that is trained, those set ``apart`` excepted: with decay, and biases and norms without.

    Parameters of a method all decay: they are deviations from W, so that decay leads phi(W) back to W.
    """
    without = {id(p) for p in apart}
    decayed = set(get_parameter_names(model, [nn.LayerNorm], NOT_DECAYED))
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in without:
            of_method = any(held in f".{name}" for held in (".subspace_params.", f".{HOME}."))
            parts[not of_method and name not in decayed].append(p)
    decays = (weight_decay, 0.0)
    return [{"params": part, "lr": lr, "weight_decay": w} for part, w in zip(parts, decays, strict=True) if part]


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.0, *, kind: Kind = AdamW, **of_kind: Any) -> Optimizer:
    """AdamW, or another ``kind``, with one learning rate."""
    return kind(groups(model, lr, weight_decay), lr=lr, **of_kind)


def lora_plus(
    model: nn.Module, lr: float, weight_decay: float = 0.0, *, ratio: float = 16.0, kind: Kind = AdamW, **of_kind: Any
) -> Optimizer:
    """LoRA+: lr for A and ratio lr for B, which starts at zero; lr for whatever is no factor.

    Raises BadInput for a ratio that is not above 0, and a model without factors. Source: arXiv:2402.12354.
    """
    if not ratio > 0:
        raise BadInput(f"lora_plus: ratio is a number above 0, the rate of B over that of A; got {ratio!r}")
    B = [pair.B for pair in some_pairs(model, "lora_plus")]
    fast = {"params": B, "lr": lr * ratio, "weight_decay": weight_decay}
    return kind([*groups(model, lr, weight_decay, apart=B), fast], lr=lr, **of_kind)


def some_pairs(model: nn.Module, name: str) -> list[Pair]:
    """The pairs of a model. Raises BadInput where it has none."""
    found = pairs_of(model)
    if not found:
        raise BadInput(f"{name} is for methods with factors A and B, and none is trained here: take adamw")
    if len({id(factor) for pair in found for factor in (pair.A, pair.B)}) < 2 * len(found):
        raise BadInput(f"{name} moves A and B of a pair together, and here layers share only one of them: take adamw")
    return found


def whole_pairs(model: nn.Module, name: str) -> list[Pair]:
    """The pairs of a model, none of them in pieces. Raises BadInput where it has none, or its factors are sharded."""
    found = some_pairs(model, name)
    if any(isinstance(pair.A, DTensor) or isinstance(pair.B, DTensor) for pair in found):
        raise BadInput(f"{name} multiplies whole factors, and these are sharded: take adamw or lora_plus")
    return found
