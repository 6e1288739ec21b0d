"""PEFT's own adapters as ours, on disk: the config rewritten, and the weights under our names and layouts.

The imported adapter computes what PEFT's does. What has no counterpart here is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import WEIGHTS
from subspace_tuning.files.aside import free, whole_folder
from subspace_tuning.tuner.adapter import Adapter, read
from subspace_tuning.tuner.config import SubspaceConfig

CARD = "# A fine-tuned adapter\n\nTrained by PEFT ({kind}), kept here as `{method}`.\n"


def read_peft(folder: str | Path) -> Adapter:
    """The adapter of a folder, its weights under our names. Raises BadInput for what cannot be imported whole."""
    adapter = read(folder)
    if adapter.made_by == "SUBSPACE":
        raise BadInput(f"{folder} is an adapter of ours already, there is nothing to import")
    return adapter


def import_peft(folder: str | Path, out: str | Path) -> SubspaceConfig:
    """Write the adapter of a folder as ours to a new folder; returns its config."""
    out = free(out)
    adapter = read_peft(folder)
    if not isinstance(config := adapter.config, SubspaceConfig):
        raise BadInput(f"{folder} is a soft prompt, which is PEFT's own here too; there is nothing to import")
    write_adapter(out, config, adapter.weights, CARD.format(kind=adapter.made_by, method=config.method.describe()))
    return config


def write_adapter(out: Path, config: SubspaceConfig, weights: Mapping[str, Tensor], card: str) -> None:
    """An adapter's folder as PEFT reads it, all of it or nothing."""
    with whole_folder(out) as aside:
        save_file(dict(weights), aside / WEIGHTS, metadata={"format": "pt"})
        (aside / "README.md").write_text(card, encoding="utf-8")
        config.save_pretrained(str(aside))
