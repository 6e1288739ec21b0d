"""The strength of adapters at run time: phi_t(W), from the base (t = 0) to the adapter as it was trained (t = 1)."""

from __future__ import annotations

import warnings

from torch import nn

from subspace_tuning.method.strength import check_dial
from subspace_tuning.tuner.at_work import checked
from subspace_tuning.tuner.layer import SubspaceLayer


def set_strength(model: nn.Module, t: float, adapter: str | None = None) -> None:
    """Let phi_t(W) be at work for phi(W), in every layer, for one adapter or without a name for all active ones.

    t = 0 is the base bit for bit, t = 1 the adapter bit for bit; beyond 1 goes further than training went. What is
    between them is the method's: see docs/strength.md. A merged adapter is merged anew. What is trained whole beside
    the method (a classification head) stays as it is. A checkpoint holds the adapter and no strength.
    Raises ValueError where no layer has the adapter, or where it sits on a whole block, or t is no finite number.
    """
    t, seats = checked(t), []
    for layer in (m for m in model.modules() if isinstance(m, SubspaceLayer)):
        names = layer.active_adapters if adapter is None else [adapter]
        seats += [(layer, name) for name in names if name in layer.methods]
    if not seats:
        known = sorted({name for m in model.modules() if isinstance(m, SubspaceLayer) for name in m.methods})
        what = "no adapter of this package is active" if adapter is None else f"there is no adapter {adapter!r}"
        raise ValueError(f"{what} on the model; it has {known}")
    for layer, name in seats:
        check_dial(layer.methods[name])
    for layer, name in seats:
        layer.set_scale(name, t)


def tell_when_saving(model: nn.Module, adapter: str) -> None:
    """Warn where an adapter is about to be saved that is not at work as it was trained."""
    seats = (m for m in model.modules() if isinstance(m, SubspaceLayer) and adapter in m.methods)
    strengths = sorted({layer.strengths.of(adapter) for layer in seats} - {1.0})
    if strengths:
        warnings.warn(
            f"the adapter {adapter!r} is at work at the strength {', '.join(f'{t:g}' for t in strengths)}, and is "
            "saved as it was trained: call set_strength again after loading, or write phi_t by "
            "`subspace export --strength`",
            stacklevel=2,
        )
