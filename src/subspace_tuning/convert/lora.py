"""Any change of weights as a plain LoRA adapter of PEFT's: W + A B with s = 1, and what is lost on the way."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from subspace_tuning.convert.change import Change
from subspace_tuning.errors import BadInput
from subspace_tuning.linalg.svd import rank_of_energy
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.read import SubspaceRead
from subspace_tuning.weights.conv_transposed import TransposedWeight


@dataclass(frozen=True)
class Wanted:
    """Which rank each layer gets.

    rank: at most this one. energy: the least that keeps this share of ||dW||_F^2. exact: all of it. None of the three:
    the exact factors where the method has thin ones, else the least rank whose relative error is within max_error.
    max_error: the largest relative error that a layer may have; None means what energy allows, or 0.01.
    """

    rank: int | None = None
    energy: float | None = None
    exact: bool = False
    max_error: float | None = None

    def __post_init__(self) -> None:
        given = [k for k in ("rank", "energy") if getattr(self, k) is not None] + ["exact"] * self.exact
        if len(given) > 1:
            raise BadInput(f"rank, energy and exact exclude each other, got {' and '.join(given)}")
        if self.rank is not None and self.rank < 1:
            raise BadInput(f"rank is a whole number above 0, got {self.rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise BadInput(f"energy is a share in (0, 1], got {self.energy}")
        if self.max_error is not None and not self.max_error >= 0:
            raise BadInput(f"max-error is a number >= 0, got {self.max_error}")

    @property
    def allowed(self) -> float:
        """The largest relative error of a layer that goes through."""
        if self.max_error is not None:
            return self.max_error
        return max(0.01, (1 - self.energy) ** 0.5) if self.energy is not None else 0.01

    def rank_for(self, change: Change) -> int:
        """The rank for a change with singular values S."""
        S = change.svd.S
        if self.rank is not None:
            return min(self.rank, len(S))
        if self.exact or (self.energy is None and change.has_factors) or len(S) == 0:
            return len(S)
        return rank_of_energy(S, self.energy if self.energy is not None else 1 - 0.999 * self.allowed**2)


class Fitted(NamedTuple):
    """One layer as A (n, r), B (r, m) in single precision, and how near they come to its change."""

    A: Tensor
    B: Tensor
    exact: bool  # A B is dW but for rounding
    error: float  # ||[dW - A B; db]|| / ||[dW; db]||
    rounding: bool  # what is missed is no more than rounding W to single precision comes to

    @property
    def rank(self) -> int:
        return self.A.shape[1]


def fit(change: Change, wanted: Wanted) -> Fitted:
    """The best product of two factors of the wanted rank (Eckart-Young), singular values shared evenly."""
    r, size = wanted.rank_for(change), change.size()
    terms = change.svd.top(r)
    root = terms.S.sqrt()
    A, B = (terms.U * root).float(), (root.unsqueeze(1) * terms.Vt).float()
    whole = r == len(change.svd.S) and not change.lost_bias
    missed = change.missed_by(A, B)
    return Fitted(A, B, whole, missed / size if size else 0.0, missed <= change.grain)


def lora_config(
    model: nn.Module, ranks: Mapping[str, int], parameters: Collection[str] = (), **values: Any
) -> LoraConfig:
    """The config of a LoRA adapter with these ranks, each with scale 1, on these modules of a model.

    parameters: those among the names that are parameters' (PEFT's ``target_parameters``), short or whole.
    """
    r = max(ranks.values())
    others = {name: rank for name, rank in sorted(ranks.items(), key=lambda p: -len(p[0])) if rank != r}
    patterns = {re.escape(name): rank for name, rank in others.items()}
    modules = [name for name in ranks if not any(f".{name}".endswith(f".{own}") for own in parameters)]
    kinds = [isinstance(model.get_submodule(name), Conv1D) for name in modules]
    return LoraConfig(
        r=r,
        lora_alpha=r,
        target_modules=targets(model, modules) if modules else [],
        target_parameters=sorted(parameters) or None,
        rank_pattern=patterns,
        alpha_pattern=dict(patterns),
        fan_in_fan_out=bool(kinds) and all(kinds),
        inference_mode=True,
        **values,
    )


def check_holds(name: str, layer: SubspaceLayer) -> None:
    """Raise BadInput for a seat on which a LoRA of PEFT's computes something else, or nothing."""
    kind = type(layer.base_layer).__name__
    why = None
    if layer.followers:
        why = f"{name} and what shares its weight go by one phi"
    elif isinstance(layer, SubspaceRead) and layer.only:
        why = f"the owner of {name} reads its weight and never calls it"
    elif layer.frozen.built or isinstance(layer.frozen, TransposedWeight):
        why = f"{name} is a {kind}" + (" in groups" if layer.frozen.built else "")
    if why is not None:
        raise BadInput(f"{why}, which a LoRA of PEFT's cannot say: write --to merged, or keep the adapter as it is")


def targets(model: nn.Module, names: list[str]) -> list[str] | str:
    """Last parts of names where they select the modules and no other, as servers like it; else whole names."""
    every = [name for name, module in model.named_modules() if name]
    for given in (sorted({name.rpartition(".")[2] for name in names}), sorted(names)):
        config = LoraConfig(target_modules=given)
        if {name for name in every if check_target_module_exists(config, name)} == set(names):
            return given
    return "|".join(re.escape(name) for name in sorted(names))


def stored(name: str, layer: nn.Module, fitted: Fitted) -> dict[str, Tensor]:
    """The factors under PEFT's names and in its layout, (out, in)."""
    A, B = fitted.A.T.contiguous(), fitted.B.T.contiguous()
    where = f"base_model.model.{name}"
    if isinstance(layer, nn.Embedding):
        return {f"{where}.lora_embedding_A": A, f"{where}.lora_embedding_B": B}
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        A = A.reshape(fitted.rank, layer.in_channels, *layer.kernel_size)
        B = B.reshape(layer.out_channels, fitted.rank, *(1 for _ in layer.kernel_size))
    return {f"{where}.lora_A.weight": A, f"{where}.lora_B.weight": B}
