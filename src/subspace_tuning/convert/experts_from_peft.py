"""PEFT's LoRA on ``target_parameters`` as ours on fused experts, where both compute the same.

Under which key PEFT keeps which parameter follows from how it wraps the module, so that PEFT itself is asked, on the
base model without its numbers.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from subspace_tuning.convert.lora_experts import factors, seats
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.method import Method
from subspace_tuning.methods import LoRA
from subspace_tuning.peft_types.kind import Kind
from subspace_tuning.peft_types.read import PREFIX, from_folder
from subspace_tuning.peft_types.table import KEEPS_W
from subspace_tuning.tuner.adapter import Adapter
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.weights.experts import Experts, with_experts

KEPT = ("task_type", "base_model_name_or_path", "revision", "modules_to_save")


def adapter_on_experts(folder: Path | str, model: nn.Module) -> Adapter:
    """The adapter of a folder by our names. Raises BadInput for what has no counterpart here, or does not fit."""
    kind, source = from_folder(folder)
    config, weights = source.config, dict(source.weights or {})
    if config.get("init_lora_weights", True) not in KEEPS_W or config.get("use_dora"):
        raise BadInput(f"{folder} has target_parameters with a start or magnitudes that PEFT has for modules alone")
    fused = {name: module for name, module in with_experts(model) if isinstance(module, Experts)}
    with as_bad_input((ValueError, TypeError, KeyError)):
        theirs = get_peft_model(copy.deepcopy(model), LoraConfig.from_pretrained(str(folder)))  # type: ignore[arg-type]
    ours: dict[str, Tensor] = {}
    methods: dict[str, Method] = {}
    for name, (path, module) in seats(theirs):
        held = _taken(kind, weights, f"{path}.")
        r, s = module.r["default"], module.scaling["default"]
        methods[name] = method = LoRA(r=r, alpha=s * r, dropout=config.get("lora_dropout", 0.0))
        if name in fused:
            with as_bad_input((ValueError, RuntimeError, IndexError)):
                A, B = factors(module, fused[name], held["A"], held["B"])
        else:
            A, B = (kind.rewrite(k, held[k], method) for k in "AB")
        ours |= {f"{PREFIX}{name}.subspace_params.{k}": t.contiguous() for k, t in (("A", A), ("B", B))}
    if lost := [key for key in weights if ".lora_" in key]:
        raise BadInput(f"the adapter {folder} holds {lost[0]}, for which PEFT has no place on this model")
    about: Any = {key: config[key] for key in KEPT if config.get(key) is not None}
    pattern = {re.escape(name): method for name, method in methods.items()}
    made = SubspaceConfig(
        method=next(iter(methods.values())), target_modules=set(methods), method_pattern=pattern, **about
    )
    return Adapter(Path(folder), made, ours | weights, kind.peft_type)


def _taken(kind: Kind, weights: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """A and B of a module, taken out of the weights."""
    found = {}
    for theirs, name in kind.names.items():
        for key in (f"{path}{theirs}.weight", f"{path}{theirs}"):
            if key in weights:
                found[name] = weights.pop(key)
    if set(found) != {"A", "B"}:
        raise BadInput(f"the adapter lacks A or B of {path.removesuffix('.')}; was it saved half-way?")
    return found
