"""An adapter as one of PEFT's own types, by the table that imports go by: PEFT makes its adapter, ours fills it in.

Which keys a checkpoint has and which shapes their tensors take is asked of PEFT and never written down here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from subspace_tuning.algebra import now
from subspace_tuning.convert.certificate import Layer
from subspace_tuning.convert.change import Change, exact
from subspace_tuning.convert.layers import seats
from subspace_tuning.convert.lora import targets
from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import CONFIG, read_config
from subspace_tuning.method import Method
from subspace_tuning.method.mpc import Constrained
from subspace_tuning.peft_types.kind import Kind, Unequal
from subspace_tuning.peft_types.read import PREFIX
from subspace_tuning.peft_types.table import KINDS
from subspace_tuning.tuner.adapter import BROKEN
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import weight_of
from subspace_tuning.weights.experts import Experts
from subspace_tuning.weights.slices import Slice

ROUNDINGS = 4  # of W, that PEFT's way of merging may take


class Theirs(NamedTuple):
    """The same adapter in PEFT."""

    peft_type: str
    model: PeftModel


def as_peft(model: PeftModel, base: PreTrainedModel, base_name: str) -> Theirs:
    """The adapter of a model as PEFT's own, on a fresh base model. Raises Unequal where no type computes the same."""
    adapter = model.active_adapters[0]
    layers = {name: layer for name, layer in seats(model).items() if adapter in layer.methods}
    if strengths := {t for layer in layers.values() if (t := layer.strengths.of(adapter)) != 1}:
        raise Unequal(f"at the strength {', '.join(f'{t:g}' for t in strengths)}")
    if fused := [name for name, layer in layers.items() if isinstance(layer.base_layer, Experts)]:
        raise Unequal(f"of its types, LoRA alone sits on fused experts such as {fused[0]}")
    if columns := [name for name, layer in layers.items() if isinstance(layer.base_layer, Slice)]:
        raise Unequal(f"none of its types sits on a part of a fused weight's columns, such as {columns[0]}")
    methods = {name: _trained_freely(layer.methods[adapter]) for name, layer in layers.items()}
    kind = _kind_for(methods)
    config = _config(kind, methods, base, model.peft_config[adapter])
    config.inference_mode = True
    try:
        theirs = cast(PeftModel, get_peft_model(base, config))
        config.base_model_name_or_path = base_name
        held = {name: _numbers(methods[name], layer, adapter) for name, layer in layers.items()}
        whole = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
        filled = {}
        for key, like in get_peft_model_state_dict(theirs, save_embedding_layers=False).items():
            filled[key] = _filled(kind, key, like, methods, held, whole)
        set_peft_model_state_dict(theirs, filled)
    except BadInput:
        raise
    except BROKEN as error:
        raise Unequal(f"PEFT's {kind.peft_type} does not take it: {error}") from error
    return Theirs(kind.peft_type, theirs.eval())


def _numbers(method: Method, layer: SubspaceLayer, adapter: str) -> dict[str, Tensor]:
    """What an adapter holds on a layer, and what is whole only together with W."""
    return {name: now(value) for name, value in method.whole(layer.params(adapter))._values.items()}


def _kind_for(methods: Mapping[str, Method]) -> Kind:
    for kind in KINDS.values():
        if all(type(method) in kind.methods for method in methods.values()):
            return kind
    raise Unequal("it has no type for that")


def _trained_freely(method: Method) -> Method:
    """Patterns o and d of MPC are terms of the loss; what is trained is the method's own."""
    return method.method if isinstance(method, Constrained) and method.pattern != "n" else method


def _config(kind: Kind, methods: Mapping[str, Method], base: PreTrainedModel, about: Any) -> Any:
    cls: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind.peft_type]  # type: ignore[index]
    values = kind.says(methods)
    names = list(methods)
    values["target_modules"] = names if values.get("feedforward_modules") else targets(base, names)
    if "fan_in_fan_out" in {f.name for f in fields(cls)}:
        values["fan_in_fan_out"] = all(isinstance(base.get_submodule(name), Conv1D) for name in names)
    return cls(task_type=about.task_type, modules_to_save=about.modules_to_save, revision=about.revision, **values)


def _filled(
    kind: Kind,
    key: str,
    like: Tensor,
    methods: Mapping[str, Method],
    held: Mapping[str, Mapping[str, Tensor]],
    whole: Mapping[str, Tensor],
) -> Tensor:
    """What stands in PEFT's checkpoint under a key, in its layout (as ``like``)."""
    module, _, name = key.removesuffix(".weight").rpartition(".")
    if name in kind.dropped:
        return like
    if name not in kind.names:
        return whole[key].detach()
    path, ours = module.removeprefix(PREFIX), kind.names[name]
    value = held[path][kind.whole(methods[path]).get(ours, ours)]
    made = kind.back(ours, value.detach(), methods[path])
    if made.numel() != like.numel():
        raise Unequal(f"PEFT's {kind.peft_type} has {tuple(like.shape)} for {ours} of {path}, ours {tuple(made.shape)}")
    return made.reshape(like.shape).to(like)


@torch.no_grad()
def compared(theirs: PeftModel, ours: Mapping[str, SubspaceLayer], changes: Mapping[str, Change]) -> dict[str, Layer]:
    """What PEFT makes of each layer, merged, beside what ours makes of it."""
    before = {name: (exact(ours[name].frozen.dense()), ours[name].frozen.own_bias) for name in changes}
    theirs.merge_adapter()
    inner: Any = theirs.get_base_model()
    layers = {}
    for name, change in changes.items():
        merged, (W, b) = weight_of(inner.get_submodule(name).get_base_layer()), before[name]
        missed = (exact(merged.dense()) - W - change.dense()).square().sum().item()
        if b is not None and merged.own_bias is not None:
            missed += (
                (exact(merged.own_bias) - exact(b) - (0 if change.db is None else change.db)).square().sum().item()
            )
        missed, size = missed**0.5, change.size()
        bias = "kept" if change.lost_bias else "unchanged"
        rounding = missed <= ROUNDINGS * change.grain
        layers[name] = Layer(change.shape, None, True, missed / size if size else 0.0, rounding, bias)
    return layers


def type_of(folder: Path) -> str:
    """PEFT's type of what a folder holds, or nothing."""
    return str(read_config(folder)["peft_type"]) if (folder / CONFIG).is_file() else ""
