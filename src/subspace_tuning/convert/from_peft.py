"""PEFT's own adapters as ours, on disk: the config rewritten, and the weights under our names and layouts.

The imported adapter computes what PEFT's does. What has no counterpart here is refused by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.aside import free, whole_folder
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.from_peft import WEIGHTS, keywords, read_folder
from subspace_tuning.tuner.peft_kinds import Kind, Source

CARD = "# A fine-tuned adapter\n\nTrained by PEFT ({kind}), kept here as `{method}`.\n"
ANY = 1 << 30  # a size at which every method can name its parameters


class Adapter(NamedTuple):
    """An adapter of PEFT's read as ours."""

    kind: str
    config: SubspaceConfig
    weights: dict[str, Tensor]


def read_peft(folder: str | Path) -> Adapter:
    """The adapter of a folder, its weights under our names. Raises BadInput for what cannot be imported whole."""
    kind, source = read_folder(folder)
    with as_bad_input((ValueError, TypeError, KeyError)):
        config = SubspaceConfig(**keywords(kind, source))
    return Adapter(kind.peft_type, config, _renamed(kind, source, config))


def import_peft(folder: str | Path, out: str | Path) -> SubspaceConfig:
    """Write the adapter of a folder as ours to a new folder; returns its config."""
    out = free(out)
    kind, config, weights = read_peft(folder)
    write_adapter(out, config, weights, CARD.format(kind=kind, method=config.method.describe()))
    return config


def write_adapter(out: Path, config: SubspaceConfig, weights: dict[str, Tensor], card: str) -> None:
    """An adapter's folder as PEFT reads it, all of it or nothing."""
    with whole_folder(out) as aside:
        save_file(weights, aside / WEIGHTS, metadata={"format": "pt"})
        (aside / "README.md").write_text(card, encoding="utf-8")
        config.save_pretrained(str(aside))


def _renamed(kind: Kind, source: Source, config: SubspaceConfig) -> dict[str, Tensor]:
    """The weights under our names; heads and other modules that were saved whole keep theirs."""
    renamed: dict[str, Tensor] = {}
    held: dict[str, set[str]] = {}
    for key, value in (source.weights or {}).items():
        module, _, name = key.removesuffix(".weight").rpartition(".")
        if name in kind.names:
            method, ours = config.resolved(module.removeprefix("base_model.model.")), kind.names[name]
            with as_bad_input():
                renamed[f"{module}.subspace_params.{ours}"] = kind.rewrite(ours, value, method).contiguous()
            held.setdefault(module, set(method.parameters(ANY, ANY))).discard(ours)
        elif name in kind.dropped:
            continue
        elif not any(part.startswith(kind.prefix) for part in key.split(".")):
            renamed[key] = value.contiguous()
        else:
            raise BadInput(f"the adapter holds {key}, which PEFT's {kind.peft_type} knows and nothing here does")
    if not held:
        raise BadInput("the adapter holds no weights of its method; was it saved half-way?")
    for module, missing in held.items():
        if missing:
            raise BadInput(f"the adapter lacks {', '.join(sorted(missing))} of {module}; was it saved half-way?")
    return renamed
