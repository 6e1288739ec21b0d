"""Loading onto a name that is taken: other numbers of the same method, or a refusal before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any

from peft import PeftConfig

from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.saved import named_layers


def guarded(load: Callable[..., Any]) -> Callable[..., Any]:
    """``PeftModel.load_adapter``, which for a name that is taken does not look at what method a folder holds."""
    if hasattr(load, "__wrapped__"):
        return load

    @wraps(load)
    def load_adapter(self: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        here = self.peft_config.get(adapter_name)
        if isinstance(here, SubspaceConfig):
            hub, _ = self._split_kwargs(dict(kwargs))
            check_same(self, adapter_name, here, PeftConfig.from_pretrained(model_id, **hub))
        return load(self, model_id, adapter_name, *args, **kwargs)

    return load_adapter


def check_same(model: Any, adapter: str, here: SubspaceConfig, given: PeftConfig) -> None:
    """Raise ValueError where a folder's config gives another phi than the adapter that stands under the name."""
    if not isinstance(given, SubspaceConfig):
        raise ValueError(_refusal(adapter, here.method.describe(), f"of PEFT's type {given.peft_type}"))
    unheld = copy(given)
    unheld.mpc, unheld.mpc_weight = here.mpc, here.mpc_weight  # MPC is of training, not of phi
    for path, layer in named_layers(model, adapter):
        path = path.removeprefix("base_model.model.")
        own, other = layer.methods[adapter], unheld.resolved(path)
        if own not in (other, other.fitted(*layer.frozen.shape)):
            raise ValueError(_refusal(adapter, own.describe(), f"{other.describe()} on {path}{_fields(own, other)}"))


def _fields(own: Any, other: Any) -> str:
    """Which fields differ, where ``describe`` need not say so."""
    if type(own) is not type(other):
        return ""
    names = [k for k, v in vars(own).items() if v != vars(other).get(k) and not k.startswith("_")]
    return f" (other {', '.join(names)})" if names else ""


def _refusal(adapter: str, own: str, other: str) -> str:
    return (
        f"the checkpoint does not hold the adapter {adapter!r} as it stands in the model, {own}: it is {other}; "
        "to load another adapter, delete this one or give the new one a name of its own"
    )
