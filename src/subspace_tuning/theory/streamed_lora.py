"""Adapters as a plain LoRA of PEFT's, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from subspace_tuning.convert import lora
from subspace_tuning.convert.certificate import CARD, CERTIFICATE, Certificate, Layer
from subspace_tuning.convert.lora import Fitted, Wanted
from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import WEIGHTS
from subspace_tuning.files.aside import whole_file, whole_folder
from subspace_tuning.run.merged import public_name
from subspace_tuning.run.skeleton import skeleton
from subspace_tuning.theory.streamed_work import Done, Work


def write_lora(work: Work, out: Path, folder: Path, done: Done, tick: Callable[[int], None]) -> Certificate:
    """The adapter; each layer's factors stand in the folder of unfinished work meanwhile."""
    model = skeleton(work.base, work.sources[0].adapter.config.task_type)
    for i, name in enumerate(work.seats):
        work.key(name, "weight")
        if name not in done.lines:
            done.note(name, {name: _fit(work, name, folder / f"{i}.safetensors")})
        tick(len(work.seats))
    layers, sizes = done.layers()
    _refuse(layers, work.wanted)
    weights = {f"base_model.model.{key}": t.contiguous() for key, t in work.along.items()}
    for i, name in enumerate(work.seats):
        held, told = load_file(folder / f"{i}.safetensors"), layers[name]
        fitted = Fitted(held["A"], held["B"], told.exact, told.error, told.rounding)
        weights |= lora.stored(name, model.get_submodule(name), fitted)
    config = lora.lora_config(model, {name: int(layers[name].rank or 0) for name in work.seats}, **_about(work))
    certificate = replace(work.certificate("lora", layers, sizes), peft_type="LORA")
    with whole_folder(out) as aside:
        config.save_pretrained(str(aside))
        save_file(weights, aside / WEIGHTS, metadata={"format": "pt"})
        card = CARD.format(base=public_name(work.sources[0].base), made=work.made)
        (aside / "README.md").write_text(card, encoding="utf-8")
        (aside / CERTIFICATE).write_text(certificate.to_json() + "\n", encoding="utf-8")
    return certificate


def _fit(work: Work, name: str, file: Path) -> tuple[Layer, float]:
    layer, made = work.change(name)
    if made.dW is None:
        raise BadInput(f"{name} holds no matrix, and its bias is nothing that a LoRA could hold: write --to merged")
    lora.check_holds(name, layer)
    fitted = lora.fit(made, work.wanted)
    with whole_file(file) as aside:
        save_file({"A": fitted.A.contiguous(), "B": fitted.B.contiguous()}, aside)
    bias = "lost" if made.lost_bias else "unchanged"
    return Layer(made.shape, fitted.rank, fitted.exact, fitted.error, fitted.rounding, bias), made.size()


def _refuse(layers: dict[str, Layer], wanted: Wanted) -> None:
    bad = {name: told for name, told in layers.items() if told.error > wanted.allowed and not told.rounding}
    if bad:
        worst = max(bad, key=lambda name: bad[name].error)
        error = bad[worst].error
        raise BadInput(
            f"{len(bad)} of {len(layers)} layers would lose more than {wanted.allowed:g} of their change, {worst} most "
            f"with {error:.3g}; allow it with --max-error {math.ceil(100 * error) / 100:g}, or ask for a larger "
            "--rank, an --energy or --exact"
        )


def _about(work: Work) -> dict[str, Any]:
    about: Any = work.sources[0].adapter.config
    base = work.sources[0].base
    named = {"base_model_name_or_path": base if Path(base).is_dir() else public_name(base)}
    return named | {"modules_to_save": about.modules_to_save, "task_type": about.task_type, "revision": about.revision}
