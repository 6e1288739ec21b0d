"""Several adapters, of any families, as one: W + sum_i w_i dW_i, or phi_2(phi_1(W))."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from peft import PeftModel

from subspace_tuning.convert.certificate import Certificate
from subspace_tuning.convert.change import Change
from subspace_tuning.convert.export import Job, checked
from subspace_tuning.convert.layers import answers_with, changes_of, check_finite, dial, frozen_weights, methods_of
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.convert.probe import probe
from subspace_tuning.convert.source import Source, opened
from subspace_tuning.errors import BadInput

HOW = ("sum", "compose")


def combine(
    adapters: Sequence[Path | str],
    out: Path | str,
    to: str = "lora",
    weights: Sequence[float] | None = None,
    how: str = "sum",
    wanted: Wanted | None = None,
    base: str | None = None,
    texts: Sequence[str] | None = None,
    strengths: Sequence[float] | None = None,
) -> Certificate:
    """Write adapters of one base model as one; the head, where they have one, is the first adapter's.

    sum: the changes of weights and biases, each times its weight (1 without weights). compose: each adapter on what the
    ones before it made. strengths: t of each adapter's phi_t, 1 without. The certificate compares with the combined
    weights written into the base model.
    """
    out = checked(out, to, ("lora", "merged"))
    if len(adapters) < 2:
        raise BadInput("name two adapters or more to combine; one alone is written by `subspace export`")
    if how not in HOW:
        raise BadInput(f"adapters are combined by {' or '.join(HOW)}, got {how!r}")
    if weights is not None and (how != "sum" or len(weights) != len(adapters)):
        raise BadInput(f"weights are for a sum, one an adapter: got {len(weights)} for {len(adapters)} adapters")
    if not all(map(math.isfinite, weights or ())):
        raise BadInput(f"weights are finite numbers, got {', '.join(map(str, weights or ()))}")
    if strengths is not None and len(strengths) != len(adapters):
        raise BadInput(f"strengths are one an adapter: got {len(strengths)} for {len(adapters)} adapters")
    sources = [opened(adapter, base) for adapter in adapters]
    model, names = _loaded(sources)
    for name, t in zip(names, strengths or (), strict=bool(strengths)):
        dial(model, t, name)
    if how == "compose":
        changes = changes_of(model, names)
    else:
        terms = zip(weights or [1.0] * len(names), names, strict=True)
        changes = reduce(_plus, ({k: w * c for k, c in changes_of(model, [a]).items()} for w, a in terms))
    check_finite(changes)
    inputs = probe(model, sources[0].tokenizer, texts)
    before = answers_with(model, frozen_weights(model), changes, inputs)
    job = Job(out, to, wanted or Wanted(), [str(a) for a in adapters], methods_of(model), sources[0], inputs)
    return job.run(model, changes, before)


def _loaded(sources: Sequence[Source]) -> tuple[PeftModel, list[str]]:
    bases = {source.base for source in sources}
    if len(bases) > 1:
        raise BadInput(f"the adapters belong to different models: {', '.join(sorted(bases))}; name one with --base")
    model = sources[0].load()
    names = [model.active_adapters[0]]
    for i, source in enumerate(sources[1:], 1):
        source.adapter.on(model, f"adapter_{i}")
        names.append(f"adapter_{i}")
    return model.eval(), names


def _plus(a: dict[str, Change], b: dict[str, Change]) -> dict[str, Change]:
    return {k: a[k] + b[k] if k in a and k in b else a.get(k) or b[k] for k in [*a, *(k for k in b if k not in a)]}
