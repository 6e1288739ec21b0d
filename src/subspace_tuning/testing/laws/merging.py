"""Merging writes phi(W) into the layer; unmerging puts the original back, bit for bit."""

import torch

from subspace_tuning.testing.cases import Case, sits, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, mergeable, near, refused, require, snapshot, unchanged


@law(dtype=[torch.float32, torch.bfloat16])
def merged_equals_unmerged(case: Case, kind: Kind, dtype: torch.dtype) -> None:
    """Or refuses, where the method is not a map of the weight, and changes nothing."""
    model = tuned(case, kind, dtype=dtype)
    x = inputs(kind, dtype=dtype)
    want, before = model(x), snapshot(model)
    if not case.resolved.mergeable:
        with refused(ValueError, "not a map of the weight alone"):
            model.merge_adapter()
        unchanged(model, before)
        require(torch.equal(model(x), want), "the output changed though merging was refused")
        return
    model.merge_adapter()
    near(model(x), want, {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype], "the output after merging")
    require(torch.equal(model(x), tuned_layer(model).base_layer(x)), "a merged layer computes more than its base layer")


@law(where=mergeable)
def unmerge_restores_bit_for_bit(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    x = inputs(kind)
    want, before = model(x), snapshot(model)
    for _ in range(3):
        model.merge_adapter()
        changed = any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
        require(changed, "merging changed nothing")
        model.unmerge_adapter()
    unchanged(model, before)
    require(torch.equal(model(x), want), "the output after unmerging is not what it was")


@law(where=sits)
def merge_and_unload_leaves_the_plain_layer(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    x = inputs(kind)
    if not case.resolved.mergeable:
        with refused(ValueError, "cannot be merged"):
            model.merge_and_unload()
        return
    want, plain = model(x), type(tuned_layer(model).base_layer)
    net = model.merge_and_unload(safe_merge=True)
    require(type(net.layer) is plain, f"{type(net.layer).__name__} is left, expected {plain.__name__}")
    near(net(x), want, 2e-6, "the output of the plain layer")
