"""Before training: phi(W) = W."""

import torch

from subspace_tuning.testing.cases import Case, sits, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near, refused, require
from subspace_tuning.weights import Unsupported


@law(dtype=[torch.float32, torch.bfloat16])
def identity_at_start(case: Case, kind: Kind, dtype: torch.dtype) -> None:
    model = tuned(case, kind, init_weights=True, dtype=dtype)
    x = inputs(kind, dtype=dtype)
    y, want = model(x), tuned_layer(model).base_layer(x)
    require(y.dtype == dtype, f"the output is {y.dtype}, expected {dtype}")
    near(y, want, {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype], "the output before training")


@law(where=lambda case, kind: not sits(case, kind))
def a_method_without_a_seat_says_so(case: Case, kind: Kind) -> None:
    with refused(Unsupported, "sits on biases"):
        tuned(case, kind)
