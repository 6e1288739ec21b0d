"""A fit as an adapter: any family taken out of a full fine-tune, in a folder that PEFT loads."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from subspace_tuning.convert.from_peft import write_adapter
from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import fault
from subspace_tuning.files.aside import free
from subspace_tuning.theory.fit import Family, Fit, Report, rank_pattern
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
    config = SubspaceConfig(
        method=family.method,
        target_modules=sorted(family.fitted),
        rank_pattern=rank_pattern(family.fitted),
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
    weights = _weights(fit, family, heads)
    for key, value in weights.items():
        if why := fault(value):
            raise BadInput(f"what would be written as {key} {why}: one of the two models is broken there")
    write_adapter(out, config, weights, card)
    return out


def _weights(fit: Fit, family: Family, heads: list[str]) -> dict[str, Tensor]:
    trained = set(family.method.parameters(1 << 20, 1 << 20)) if family.fitted else set()
    found = {}
    for name in family.fitted:
        for key, value in fit.values(family.method, name).items():
            group = "subspace_params" if key in trained else "subspace_stored"
            found[f"base_model.model.{name}.{group}.{key}"] = value
    for key in fit.tuned.keys():  # noqa: SIM118
        if key.split(".")[0] in heads:
            found[f"base_model.model.{key}"] = fit.tuned.read(key)
    return found
