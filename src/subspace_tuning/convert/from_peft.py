"""PEFT's own adapters as ours, on disk: the config rewritten, and the weights under our names and layouts.

The imported adapter computes what PEFT's does. What has no counterpart here is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

from safetensors.torch import save_file
from torch import Tensor, nn

from subspace_tuning.convert.experts_from_peft import adapter_on_experts
from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import WEIGHTS, read_config
from subspace_tuning.files.aside import free, whole_folder
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.skeleton import skeleton
from subspace_tuning.tuner.adapter import Adapter, read
from subspace_tuning.tuner.config import SubspaceConfig

CARD = "# A fine-tuned adapter\n\nTrained by PEFT ({kind}), kept here as `{method}`.\n"


def read_peft(folder: str | Path) -> Adapter:
    """The adapter of a folder, its weights under our names. Raises BadInput for what cannot be imported whole."""
    adapter = read(folder)
    if adapter.made_by == "SUBSPACE":
        raise BadInput(f"{folder} is an adapter of ours already, there is nothing to import")
    return adapter


class Imported(NamedTuple):
    """What an import made, and the base model that it was compared with, if one was at hand."""

    config: SubspaceConfig
    base: str | None


def import_peft(folder: str | Path, out: str | Path, base: str | None = None) -> Imported:
    """Write the adapter of a folder as ours to a new folder.

    Where its base model, or ``base``, is at hand, each module is one of the model's, under its name of today, and takes
    these shapes; no number of the model is read.
    """
    out = free(out)
    if read_config(Path(folder)).get("target_parameters"):
        return _import_experts(folder, out, base)
    adapter = read_peft(folder)
    if not isinstance(adapter.config, SubspaceConfig):
        raise BadInput(f"{folder} is a soft prompt, which is PEFT's own here too; there is nothing to import")
    model = _at_hand(adapter, base)
    if model is None and (equal := adapter.equal_on):
        kinds = " or ".join(cls.__name__ for cls in equal)
        raise BadInput(
            f"PEFT's {adapter.made_by} is ours on {kinds} alone, and its base model is not at hand to look at: name it "
            "with --base"
        )
    if model is not None:
        adapter = adapter.named_as(model)
        adapter.check(model)
    return _written(adapter, out, None if model is None else base or adapter.config.base_model_name_or_path)


def _import_experts(folder: str | Path, out: Path, base: str | None) -> Imported:
    config = read_config(Path(folder))
    name = base or config.get("base_model_name_or_path")
    model = _model_at_hand(name, config.get("task_type"), named=base is not None)
    if model is None:
        raise BadInput(
            f"{folder} sits on parameters of experts, and its base model is not at hand to look at: name it with --base"
        )
    adapter = adapter_on_experts(folder, model)
    adapter.check(model)
    return _written(adapter, out, name)


def _written(adapter: Adapter, out: Path, base: str | None) -> Imported:
    config = cast(SubspaceConfig, adapter.config)
    card = CARD.format(kind=adapter.made_by, method=config.method.describe())
    write_adapter(out, config, adapter.weights, card)
    return Imported(config, base)


def _at_hand(adapter: Adapter, base: str | None) -> nn.Module | None:
    """The base model without its numbers; None where nobody named one, and the adapter's own cannot be read."""
    config = adapter.config
    return _model_at_hand(base or config.base_model_name_or_path, config.task_type, named=base is not None)


def _model_at_hand(name: str | None, task_type: str | None, named: bool) -> nn.Module | None:
    try:
        return None if not name else skeleton(Checkpoint(name), task_type)
    except BadInput:
        if named:
            raise
        return None


def write_adapter(out: Path, config: SubspaceConfig, weights: Mapping[str, Tensor], card: str) -> None:
    """An adapter's folder as PEFT reads it, all of it or nothing."""
    with whole_folder(out) as aside:
        save_file(dict(weights), aside / WEIGHTS, metadata={"format": "pt"})
        (aside / "README.md").write_text(card, encoding="utf-8")
        config.save_pretrained(str(aside))
