"""An adapter on its base model in another precision changes W as it did, or loading says that it does not."""

import copy
import warnings
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel

from subspace_tuning.testing.cases import Case, Net, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind
from subspace_tuning.testing.law import law, mergeable, require


@law(where=mergeable, first=1)
def a_rounded_base_is_the_same_or_told(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    rounded = copy.deepcopy(tuned_layer(model).base_layer).to(torch.bfloat16)
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.save_pretrained(folder)
        again: Any = PeftModel.from_pretrained(Net(rounded), folder)
    if any("other numbers" in str(w.message) for w in said):
        return
    with torch.no_grad():
        got, want = (_moved(layer) for layer in (tuned_layer(again), tuned_layer(model)))
        W = tuned_layer(model).frozen.dense()
    off, rounding = (got - want).norm().item(), torch.finfo(torch.bfloat16).eps / 2 * W.norm().item()
    allowed = 2e-2 * want.norm().item() + rounding  # some methods make W anew, as exact as bfloat16 holds it
    require(off < allowed, f"on the base in bfloat16 phi(W) - W is off by {off:.1e}, and nothing says so")


def _moved(layer: Any) -> torch.Tensor:
    """What the adapter adds to [W; b^T]."""
    W, E, b, _ = layer.tuned(["default"])
    added = E.dense().float() - W.dense().float()
    return added if b is None else torch.cat([added, (b.now().float() - W.own_bias.float()).unsqueeze(0)])
