"""Before training: phi(W) = W, or what the method says it is."""

import torch

from subspace_tuning.testing.cases import Case, sits, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near, refused, relative, require
from subspace_tuning.weights import Unsupported


def starts_at_W(case: Case) -> bool:
    return case.resolved.starts_at == "W"


@law(where=lambda case, kind: sits(case, kind) and starts_at_W(case), dtype=[torch.float32, torch.bfloat16])
def identity_at_start(case: Case, kind: Kind, dtype: torch.dtype) -> None:
    model = tuned(case, kind, init_weights=True, dtype=dtype)
    x = inputs(kind, dtype=dtype)
    y, want = model(x), tuned_layer(model).base_layer(x)
    require(y.dtype == dtype, f"the output is {y.dtype}, expected {dtype}")
    near(y, want, {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype], "the output before training")


@law(where=lambda case, kind: sits(case, kind) and not starts_at_W(case))
def a_start_that_is_told_is_not_W(case: Case, kind: Kind) -> None:
    """And goes with the adapter: without it the output is the base's, bit for bit."""
    model = tuned(case, kind, init_weights=True)
    x = inputs(kind)
    base = tuned_layer(model).base_layer(x)
    require(relative(model(x), base) > 1e-4, f"training is told to start at {case.resolved.starts_at}, and starts at W")
    with model.disable_adapter():
        require(torch.equal(model(x), base), "without the adapter the output is not the base's")


@law(where=lambda case, kind: not sits(case, kind))
def a_method_without_a_seat_says_so(case: Case, kind: Kind) -> None:
    with refused(Unsupported, "sits on biases"):
        tuned(case, kind)
