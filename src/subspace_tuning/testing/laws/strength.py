"""The strength dial: phi_t goes from W (t = 0) to phi(W) (t = 1), bit for bit at both ends."""

import torch
from torch import Tensor

from subspace_tuning.methods import LoRA
from subspace_tuning.testing.cases import Case, adapter_parameters, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, mergeable, near, require, snapshot, unchanged
from subspace_tuning.testing.laws.training import BiggestProducts
from subspace_tuning.tuner.strength import set_strength

STRENGTHS = (0.3, 0.7, 1.5)
SMALL = 1e-4


@law(dtype=[torch.float32, torch.bfloat16])
def no_strength_is_the_base_and_full_strength_phi(case: Case, kind: Kind, dtype: torch.dtype) -> None:
    """Bit for bit, however the strength came there; merging at t = 0 leaves the layer as it was."""
    model = tuned(case, kind, dtype=dtype)
    layer, x = tuned_layer(model), inputs(kind, dtype=dtype)
    want, base, before = model(x), layer.base_layer(x), snapshot(layer.base_layer)
    set_strength(model, 0)
    require(torch.equal(model(x), base), "at t = 0 the output is not the base's")
    if case.resolved.mergeable:
        model.merge_adapter()
        unchanged(layer.base_layer, before)
        model.unmerge_adapter()
    set_strength(model, 1)
    require(torch.equal(model(x), want), "at t = 1 the output is not that of phi")
    for scale in (0.3, 0):
        layer.scale_layer(scale)
        require(not torch.equal(model(x), want), f"scaled by {scale} the output stays what it was")
        layer.unscale_layer(scale)
        require(torch.equal(model(x), want), f"scaled by {scale} and back the output is not what it was")


@law(where=mergeable)
def merged_equals_unmerged_at_every_strength(case: Case, kind: Kind) -> None:
    """A merged layer follows the dial, and unmerging restores the original bit for bit."""
    model = tuned(case, kind)
    x, before = inputs(kind), snapshot(model)
    want = {}
    for t in STRENGTHS:
        set_strength(model, t)
        want[t] = model(x)
    model.merge_adapter()
    for t in STRENGTHS:
        set_strength(model, t)
        near(model(x), want[t], 2e-6, f"the output after merging at t = {t}")
    model.unmerge_adapter()
    unchanged(model, before)
    require(torch.equal(model(x), want[STRENGTHS[-1]]), "the output after unmerging is not what it was")


@law(first=2)
def the_dial_leads_away_from_W_steadily(case: Case, kind: Kind) -> None:
    """Each turn further from W, none of them by a jump: not in leaving W, nor in arriving at phi(W)."""
    model = tuned(case, kind, dtype=torch.float64)
    x = inputs(kind, 24, torch.float64)

    def at(t: float) -> Tensor:
        set_strength(model, t)
        E = tuned_layer(model).tuned(["default"]).E
        dense = case.resolved.sits_on == "weight" and case.resolved.mergeable
        seen: Tensor = E.dense() if dense else model(x)
        return seen.detach()

    W = at(0)
    far = [(at(t) - W).norm().item() for t in (0.25, 0.5, 0.75, 1, 1.25)]
    require(far[0] > 0 and far == sorted(set(far)), f"the distances from W at growing strengths are {far}")
    for t in (0, 0.5, 1 - SMALL, 1):
        step = (at(t + SMALL) - at(t)).norm().item() / far[3]
        require(step < 10 * SMALL, f"from t = {t} by {SMALL} phi_t moves by {step:.1e} of the way to phi")


@law(first=3)
def every_adapter_has_a_strength_of_its_own(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    x = inputs(kind)
    set_strength(model, 0.3)
    alone = model(x)
    model.add_adapter("other", Case(LoRA(r=2)).config(target_modules=["layer"], init_weights=False))
    require(torch.equal(model(x), alone), "another adapter, not active, changes the output")
    model.base_model.set_adapter(["default", "other"])
    whole = model(x)
    set_strength(model, 0, "other")
    require(torch.equal(model(x), alone), "the other one at t = 0 is not the first one alone")
    set_strength(model, 0.7, "other")
    both = model(x)
    require(not torch.equal(both, alone) and not torch.equal(both, whole), "the other one's strength changes nothing")
    if case.resolved.mergeable:
        model.merge_adapter()
        near(model(x), both, 2e-6, "the output with both merged")
        model.unmerge_adapter()
    model.delete_adapter("other")
    model.set_adapter("default")
    require(torch.equal(model(x), alone), "deleting one adapter changes the strength of the other")


@law(first=3)
def gradients_reach_the_parameters_at_a_strength(case: Case, kind: Kind) -> None:
    """All of them where t > 0, without a product of W's size where phi has none; none of them where t = 0."""
    model = tuned(case, kind).train()
    mine, x = adapter_parameters(model), inputs(kind)
    n, m = kind.matrix(tuned_layer(model).base_layer).shape

    def formed() -> bool:
        model.zero_grad()
        with BiggestProducts() as products:
            model(x).square().sum().backward()
        return n * m in products.sizes

    by_phi = formed()
    set_strength(model, 0.5)
    require(by_phi or not formed(), f"at t = 0.5 there are products of {n} x {m} numbers, and phi has none")
    for name, p in mine.items():
        pull = torch.zeros(()) if p.grad is None else p.grad.abs().max()
        require(pull > 0 and pull.isfinite(), f"at t = 0.5 the gradient of {name} is {pull} at most")
    set_strength(model, 0)
    require(not model(x).requires_grad, "at t = 0 the output still depends on the parameters")


@law(where=mergeable, first=2)
def what_keeps_singular_values_keeps_them_at_every_strength(case: Case, kind: Kind) -> None:
    """Where phi only turns W, so does phi_t."""
    model = tuned(case, kind, dtype=torch.float64)
    layer = tuned_layer(model)
    if not layer.frozen.holds_matrix:
        return
    spectra = {}
    for t in (0, 1, *STRENGTHS):
        set_strength(model, t)
        spectra[t] = torch.linalg.svdvals(layer.tuned(["default"]).E.dense().detach())
    if torch.allclose(spectra[1], spectra[0], rtol=1e-9):
        for t in STRENGTHS:
            near(spectra[t], spectra[0], 1e-9, f"the singular values at t = {t}")
