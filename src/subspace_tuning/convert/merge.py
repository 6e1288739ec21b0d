"""Merging, judged before anything is written: what is left of a change in the weights that take it.

A quantised weight W_q takes Q(phi(W)) for phi(W), each number by a code. Of dW = phi(W) - W_q that leaves all but
||Q(phi(W)) - W_q - dW||_F / ||dW||_F: 0 where nothing is lost, 1 where all is or as much else has come in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from peft import PeftModel
from torch import Tensor

from subspace_tuning.convert.certificate import Certificate, Layer
from subspace_tuning.convert.change import Change
from subspace_tuning.convert.layers import Written, changes_of, frozen_weights, methods_of, without, written
from subspace_tuning.convert.probe import Differences, Probe, answers, differences, probe
from subspace_tuning.weights.written import WAYS_OUT

HALF = 0.5  # of a layer's change: no more is lost in a quantised weight unless that is allowed


class Told(NamedTuple):
    """What merging would make of a model."""

    layers: dict[str, Layer]
    logits: Differences  # between the adapter and the merged model
    moved: Differences  # between the base model and the adapter


def merge_certificate(
    model: PeftModel, tokenizer: Any = None, texts: Sequence[str] | None = None, max_error: float | None = None
) -> Certificate:
    """What merging the active adapters would keep; the model is left as it was, bit for bit.

    max_error: the largest relative error that a layer may have; None means any, and HALF where it is quantised.
    ``refused`` says which have more.
    Raises BadInput where an adapter is no map of the weights.
    """
    training, inputs = model.training, probe(model, tokenizer, texts)
    try:
        changes = changes_of(model, model.active_adapters)
        told = foretold(model, changes, answers(model, inputs), inputs)
    finally:
        model.train(training)
    config: Any = model.peft_config[model.active_adapters[0]]
    return Certificate.of(
        told.layers,
        {name: change.size() for name, change in changes.items()},
        source=list(model.active_adapters),
        methods=methods_of(model),
        base=str(config.base_model_name_or_path or ""),
        to="merged",
        asked={"max_error": max_error},
        probe=inputs.told,
        logits=told.logits,
        moved=told.moved,
        refused=refusal(told.layers, max_error),
    )


def foretold(model: PeftModel, changes: Mapping[str, Change], before: list[Tensor], inputs: Probe) -> Told:
    """What merging changes would make of a model that answers ``before``; it is left as it was."""
    with without(model):
        moved = differences(answers(model, inputs), before)
        with written(model, frozen_weights(model), changes) as cost:
            after = answers(model, inputs)
    layers = {name: layer(changes[name], cost[name]) for name in changes}
    return Told(layers, differences(before, after), moved)


def layer(change: Change, cost: Written, norm: str = "") -> Layer:
    """What became of a layer whose change was written into it."""
    size, bias = change.size(), "kept" if change.lost_bias else "unchanged"
    rounding = cost.missed <= change.grain
    exact = cost.codes is None or rounding
    return Layer(change.shape, None, exact, cost.missed / size if size else 0.0, rounding, bias, norm, cost.codes)


def refusal(layers: Mapping[str, Layer], max_error: float | None) -> str:
    """Why a merge is not written, or nothing where it is."""

    def too_much(one: Layer) -> bool:
        allowed = HALF if max_error is None and one.codes is not None else max_error
        return allowed is not None and one.error > allowed and not one.rounding

    bad = {name: one for name, one in layers.items() if too_much(one)}
    if not bad:
        return ""
    worst = max(bad, key=lambda name: bad[name].error)
    error, codes = bad[worst].error, bad[worst].codes
    limit, kind = HALF if max_error is None else max_error, "" if codes is None else "quantised "
    said = (
        f"{len(bad)} of {len(layers)} {kind}layers would lose more than {limit:g} of their change, {worst} most with "
    )
    enough = f"--max-error {math.ceil(100 * error) / 100:g}"
    if codes is None:
        return f"{said}{error:.3g}; allow it with {enough}"
    return f"{said}{error:.3g}, where {codes:.1%} of the codes change: {WAYS_OUT}; {enough} allows it all the same"
