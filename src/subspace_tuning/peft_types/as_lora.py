"""PEFT's types that share their numbers between layers, read as the LoRA that they make of each.

VBLORA, UNILORA and TINYLORA: what a layer takes out of the shared numbers (which vectors of the bank, which places,
which projections) is PEFT's own draw, which no method of ours has; the two thin factors that come out of it follow from
the checkpoint. They are made as PEFT's LORA holds them: lora_A (r, in), lora_B (out, r).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.method import Method
from subspace_tuning.methods import LoRA
from subspace_tuning.peft_types.kind import Kind, Source, Tensors, Unequal, back, turned

MOST = 1 << 30  # numbers of one factor, before it is made
Modules = Mapping[str, Mapping[str, Tensor]]
Factors = Callable[[str, Mapping[str, Tensor]], tuple[Tensor, Tensor]]  # module and its tensors -> lora_A, lora_B


def _vblora(config: Mapping[str, Any], shared: Tensors, modules: Modules) -> Factors:
    bank = _needed(shared, "vblora_vector_bank").float()

    def pieces(held: Mapping[str, Tensor], side: str) -> Tensor:
        """Mixtures of the bank's vectors (..., length)."""
        name = f"vblora_logits_{side}"
        if config.get("save_only_topk_weights"):
            which, weights = _places(held, f"{name}_topk_indices", bank), _needed(held, f"{name}_topk_weights").float()
            weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], -1)
        else:
            best, which = _needed(held, name).float().topk(config["topk"], dim=-1)
            weights = best.softmax(-1)
        _affordable(which[..., 0].numel() * bank.shape[1] * which.shape[-1])
        return (weights.unsqueeze(-1) * bank[which]).sum(-2)

    def factors(module: str, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        A, B = (pieces(held, side) for side in "AB")  # (r, pieces, length), (pieces, r, length)
        return A.flatten(1), B.transpose(1, 2).flatten(0, 1)

    return factors


def _unilora(config: Mapping[str, Any], shared: Tensors, modules: Modules) -> Factors:
    theta = _needed(shared, "unilora_theta_d").float()
    if not modules:
        raise BadInput(
            "the adapter was saved with save_indices=False, and PEFT deals its places by the order of the base model's "
            "modules; load it in PEFT and save it with save_indices=True"
        )

    def factors(module: str, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        names = [(f"unilora_indices_{side}", f"unilora_scales_{side}") for side in "AB"]
        A, B = (theta[_places(held, places, theta)] * _needed(held, scales).float() for places, scales in names)
        return A, B

    return factors


def _tinylora(config: Mapping[str, Any], shared: Tensors, modules: Modules) -> Factors:
    v = {name.rpartition(".")[2]: value.float() for name, value in shared.items()}
    order = {} if len(v) == 1 else _order(config, modules)

    def factors(module: str, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        A, B, P = (_needed(held, f"tinylora_{name}") for name in "ABP")
        group = next(iter(v)) if len(v) == 1 else str(_group(order[module], len(modules), config["weight_tying"]))
        core = torch.einsum("i,ijk->jk", _needed(v, group), P.float())
        return A.float(), B.float() @ core

    return factors


def _order(config: Mapping[str, Any], modules: Modules) -> dict[str, int]:
    """The number of each module, by the seed that its projections were drawn from."""
    found: dict[str, int] = {}
    free = set(range(len(modules)))
    for module, held in modules.items():
        P = _needed(held, "tinylora_P").float()
        for number in free:
            draw = torch.Generator().manual_seed(config["projection_seed"] + number)
            if torch.allclose(torch.normal(0.0, P.shape[-1] ** -0.5, P.shape, generator=draw), P, rtol=1e-2, atol=1e-3):
                found[module] = number
                break
        else:
            raise BadInput(f"the projections of {module} do not follow from projection_seed")
        free.discard(found[module])
    return found


def _group(number: int, count: int, tying: float) -> int:
    """Which v a layer has, of those that neighbours share."""
    groups = max(1, round(count * (1.0 - tying)))
    return min(number // max(1, count // groups), groups - 1)


def _needed(held: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in held:
        without = "; load it in PEFT and save it with save_projection=True" if name == "tinylora_P" else ""
        raise BadInput(f"the adapter lacks {name}{without or '; was it saved half-way?'}")
    return held[name]


def _places(held: Mapping[str, Tensor], name: str, among: Tensor) -> Tensor:
    """Which of the entries of ``among`` are meant."""
    found = _needed(held, name)
    if found.is_floating_point() or not 0 <= int(found.min()) <= int(found.max()) < len(among):
        raise BadInput(f"{name} of the adapter names places other than the {len(among)} that there are")
    return found.long()


def _affordable(numbers: int) -> None:
    if numbers > MOST:
        raise BadInput(f"the adapter's bank would make a factor of {numbers:,} numbers, more than any layer has")


def _kind(
    peft_type: str,
    fields: frozenset[str],
    shared: str,
    make: Callable[[Mapping[str, Any], Tensors, Modules], Factors],
) -> Kind:
    """``shared``: how the names of tensors begin that belong to no layer."""
    prefix = f"{peft_type.lower()}_"

    def read(source: Source) -> dict[str, Any]:
        if source.weights is None:
            raise BadInput(
                f"a {peft_type} is read as the LoRA that its weights make, to be used and not to be trained as one; "
                "give the adapter's folder"
            )
        r = max((t.shape[0] for key, t in source.weights.items() if key.endswith("lora_A.weight")), default=1)
        return {"method": LoRA(r=r, alpha=float(r), dropout=source.config.get(f"{prefix}dropout", 0.0))}

    def prepared(source: Source) -> dict[str, Tensor]:
        ours: dict[str, Tensor] = {}
        common: dict[str, Tensor] = {}
        modules: dict[str, dict[str, Tensor]] = {}
        for key, value in (source.weights or {}).items():
            module, _, name = key.rpartition(".")
            if key.startswith(f"base_model.{shared}"):
                common[key.removeprefix("base_model.")] = value
            elif name.startswith(prefix):
                modules.setdefault(module, {})[name] = value
            else:
                ours[key] = value
        with as_bad_input((ValueError, TypeError, IndexError, KeyError, RuntimeError)):
            factors = make(source.config, common, modules)
            for module, held in modules.items():
                A, B = factors(module, held)
                ours |= {f"{module}.lora_A.weight": A.contiguous(), f"{module}.lora_B.weight": B.contiguous()}
        return ours

    def says(methods: Mapping[str, Method]) -> dict[str, Any]:
        raise Unequal(f"{peft_type} is read only")

    names = {"lora_A": "A", "lora_B": "B"}
    return Kind(peft_type, read, fields, names, prefix, turned, (), says, back, prepared=prepared)


AS_LORA = (
    _kind(
        "VBLORA",
        frozenset(
            {"r", "num_vectors", "vector_length", "topk", "save_only_topk_weights", "vblora_dropout"}
            | {"init_vector_bank_bound", "init_logits_std"}
        ),
        "vblora_vector_bank",
        _vblora,
    ),
    _kind(
        "UNILORA",
        frozenset(
            {"r", "proj_seed", "theta_d_length", "unilora_dropout", "init_theta_d_bound", "init_weights"}
            | {"save_indices"}
        ),
        "unilora_theta_d",
        _unilora,
    ),
    _kind(
        "TINYLORA",
        frozenset(
            {"r", "u", "weight_tying", "projection_seed", "save_projection", "init_v_bound", "tinylora_dropout"}
            | {"init_weights"}
        ),
        "tinylora_v.",
        _tinylora,
    ),
)
