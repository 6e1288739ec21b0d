"""What a method must be able to do, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.method.catalogue import Entry

SERVED: dict[str, tuple[Callable[[Entry], bool], str]] = {  # how a model is served -> what that asks, what else is said
    "merged": (lambda e: e.mergeable, "it cannot be merged into W"),
    "vllm": (lambda e: e.lora_export, "it is no plain LoRA"),
    "unmerged": (lambda e: True, ""),
    "quantised": (lambda e: e.quantised_base, "it reads W, which a quantised base does not show"),
}
FORGET_LITTLE = "forget little"


@dataclass(frozen=True)
class Wanted:
    """budget: parameters; memory: bytes of a training step; speed: its time over the floor. None: any."""

    budget: int
    serve: str | None = None
    memory: int | None = None
    speed: float | None = None
    keep: str | None = None

    def __post_init__(self) -> None:
        known = {"serve": list(SERVED), "keep": [FORGET_LITTLE]}
        for name, values in known.items():
            if (given := getattr(self, name)) is not None and given not in values:
                raise BadInput(
                    f"--{name} is one of {', '.join(values)}, got {given!r}: {nearest(given, values)}".rstrip(": ")
                )
        if self.budget < 1:
            raise BadInput(f"the budget is {self.budget} parameters, and a method trains one at least; give more")

    def refuses(self, entry: Entry, parameters: int, time: float | None) -> str:
        """Why a method is out, by what is known of it at no cost; nothing where it is not."""
        if parameters > self.budget:
            return f"it trains {parameters:,} parameters at least, the budget is {self.budget:,}"
        if self.serve is not None and not SERVED[self.serve][0](entry):
            return SERVED[self.serve][1]
        if self.speed is not None and time is None:
            return "the time of its steps was not measured"
        if self.speed is not None and time is not None and time > self.speed:
            return f"a step takes {time:.2f} of the floor, {self.speed:g} was allowed"
        return ""


def budget_of(share: str | None, parameters: int | None, total: int) -> int:
    """Parameters from ``0.1%`` of a model's ``total``, or as such; one in a hundred where nothing is said."""
    if share is not None and parameters is not None:
        raise BadInput("--budget and --parameters say the same twice; give one of them")
    if parameters is not None:
        return parameters
    text = (share or "1%").strip()
    try:
        part = float(text.removesuffix("%"))
    except ValueError:
        part = float("nan")
    if not text.endswith("%") or not 0 < part <= 100:
        raise BadInput(f"--budget is a share of the model's parameters such as 0.1%, got {share!r}")
    return int(part / 100 * total)
