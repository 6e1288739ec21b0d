"""A fit as an adapter: any family taken out of a full fine-tune, in a folder that PEFT loads."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from subspace_tuning.convert.from_peft import write_adapter
from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import fault
from subspace_tuning.files.aside import free
from subspace_tuning.method import Method
from subspace_tuning.theory.fit import Family, Fit, Report
from subspace_tuning.theory.places import Place, Places
from subspace_tuning.theory.reach import Reach
from subspace_tuning.tuner.config import SubspaceConfig

CARD = """# {method}, extracted

The best that `{method}` can do towards a fully fine-tuned model: it captures {energy:.1%} of
||W* - W||^2 on {layers} layers with {parameters:,} parameters. Nothing was trained.
"""


def extract(fit: Fit, report: Report, family: Family, out: str | Path) -> Path:
    """Write the kept parameters of a family, and a head that only the fine-tuned model has, to a new folder."""
    out = free(out)
    if not family.fitted:
        raise BadInput(f"{family.method.describe()} fits no layer; there is nothing to write")
    heads = sorted({name.split(".")[0] for name in report.places.heads})
    modules = {place.name: place.module for place in report.places.places}
    config = SubspaceConfig(
        method=family.method,
        target_modules=sorted({modules[name] for name in family.fitted}),
        rank_pattern={re.escape(modules[name]): f.r for name, f in family.fitted.items() if f.r is not None},
        modules_to_save=heads or None,
        base_model_name_or_path=fit.base.name,
        inference_mode=True,
    )
    card = CARD.format(
        method=family.method.describe(),
        energy=family.captured_energy,
        layers=len(family.fitted),
        parameters=family.parameters,
    )
    weights = _weights(fit, report.places, config, family, heads)
    for key, value in weights.items():
        if why := fault(value):
            raise BadInput(f"what would be written as {key} {why}: one of the two models is broken there")
    write_adapter(out, config, weights, card)
    return out


def _weights(fit: Fit, places: Places, config: SubspaceConfig, family: Family, heads: list[str]) -> dict[str, Tensor]:
    trained = set(family.method.parameters(1 << 20, 1 << 20)) if family.fitted else set()
    found = {}
    for name in sorted(config.target_modules or ()):
        each = [p for p in places.places if p.module == name]
        values = [_values(fit, places, place, config.resolved(name), family) for place in each]
        for key in values[0]:
            group = "subspace_params" if key in trained else "subspace_stored"
            own = [value[key] for value in values]
            found[f"base_model.model.{name}.{group}.{key}"] = own[0] if each[0].expert is None else torch.stack(own)
    for key in fit.tuned.keys():  # noqa: SIM118
        if key.split(".")[0] in heads:
            found[f"base_model.model.{key}"] = fit.tuned.read(key)
    return found


def _values(fit: Fit, places: Places, place: Place, method: Method, family: Family) -> dict[str, Tensor]:
    """What was kept; of an expert that did not change beside others that did, what phi(W) = W has."""
    if place.name in family.fitted:
        return fit.values(family.method, place.name)
    return Reach(method, place.read(places.base)).resting
