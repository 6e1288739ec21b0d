"""Half precision rounds what parameters make, once, and not the parameters: small changes count."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from subspace_tuning.testing.cases import Case, adapter_parameters, sits, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, require

CHANGE = 0.003  # less than half a unit in the last place of 1 in bfloat16
DRAWS = 5
HALF_LOST = 0.5  # of an effect, or as much again: numbers that are alike are rounded alike


class Precision(NamedTuple):
    """What the base is kept in, and whether it computes in bfloat16 by autocast."""

    name: str
    base: torch.dtype
    autocast: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def dtype(self) -> torch.dtype:
        """That it computes in."""
        return torch.bfloat16 if self.autocast else self.base

    @property
    def eps(self) -> float:
        return torch.finfo(self.dtype).eps


HALF = [
    Precision("bfloat16", torch.bfloat16),
    Precision("float16", torch.float16),
    Precision("autocast", torch.float32, autocast=True),
]


class Twins(NamedTuple):
    """A layer as it is used, parameters in single precision on a half-precision base, and the same in double."""

    rough: Any
    exact: Any
    parameters: tuple[dict[str, Tensor], dict[str, Tensor]]  # of both, by name

    @classmethod
    def of(cls, case: Case, kind: Kind, precision: Precision) -> Twins:
        """On one base, whose numbers are those of half precision."""

        def rounded() -> nn.Module:
            return kind.layer().to(precision.dtype).double()

        exact = tuned(case, kind._replace(layer=rounded), init_weights=True, dtype=torch.float64)
        rough = copy.deepcopy(exact).float()
        tuned_layer(rough).base_layer.to(precision.base)
        return cls(tuned_layer(rough), tuned_layer(exact), (adapter_parameters(rough), adapter_parameters(exact)))

    def set(self, values: dict[str, Tensor]) -> None:
        for parameters in self.parameters:
            for name, p in parameters.items():
                p.data.copy_(values[name])

    def values(self) -> dict[str, Tensor]:
        return {k: p.detach().clone() for k, p in self.parameters[1].items()}

    def outcomes(self, values: dict[str, Tensor], outcome: Callable[[Any, int], Tensor], draw: int) -> list[Tensor]:
        """Of both, the rough one's first."""
        self.set({k: v.float() for k, v in values.items()})
        return [outcome(layer, draw).double() for layer in (self.rough, self.exact)]


class Gain(NamedTuple):
    """<dy, dy*> / ||dy*||^2 for small changes of a parameter, dy* the exact effect: 1 but for rounding."""

    value: float
    noise: float  # a standard deviation of it, by the rounding of outputs and of the parameter's own numbers

    @classmethod
    def of(cls, twins: Twins, name: str, eps: float, outcome: Callable[[Any, int], Tensor]) -> Gain:
        """Over a few draws of all other parameters. One that starts at zero is moved from there, its numbers alike: had
        what they make been rounded, 1.003 to 1, nothing would be left, and no other number could make up for it.

        An entry of dy errs by rounding two entries of y, eps / sqrt(6) of them, one independently of the other; numbers
        of a parameter that starts at random, where they are rounded to meet the rows, err likewise.
        """
        met = size = outputs = count = 0.0
        seen = False
        start = twins.values()
        at_random = bool(start[name].any())
        for draw in range(DRAWS):
            values = {k: p + 0.1 * torch.randn_like(p) for k, p in start.items()}
            values[name] = values[name] if at_random else start[name]
            moved = values | {name: values[name] * (1 + CHANGE) + CHANGE}
            before, after = (twins.outcomes(v, outcome, draw) for v in (values, moved))
            dy = after[1] - before[1]
            seen |= bool((dy.abs() > eps / 2 * before[1].abs().log2().floor().exp2()).any())
            met += ((after[0] - before[0]) * dy).sum().item()
            size += dy.square().sum().item()
            outputs += before[1].square().sum().item()
            count += before[1].flatten(0, -2).unique(dim=0).numel()
        twins.set(start)
        if not seen:  # each change is below half a unit in the last place of what it is added to
            return cls(1.0, 0.0)
        size, half = max(size, 1e-300), eps / 6**0.5
        own = at_random / CHANGE / (DRAWS * start[name].numel()) ** 0.5
        return cls(met / size, half * ((outputs / size) ** 0.5 / count**0.5 + own))

    def check(self, what: str) -> None:
        off = abs(self.value - 1)
        require(
            off < HALF_LOST + 4 * self.noise,
            f"{what} has a gain of {self.value:.3f}, expected 1 +- {self.noise:.3f}",
        )


def met_in_two_ways(case: Case, kind: Kind) -> bool:
    """Rows that are numbers, and rows that are tokens."""
    return sits(case, kind) and kind.name in ("linear", "embedding")


@law(where=met_in_two_ways, precision=HALF)
def small_changes_survive_rounding(case: Case, kind: Kind, precision: Precision) -> None:
    """A parameter changed by 0.3 % changes the output by what it should, and the merged weight too."""
    twins = Twins.of(case, kind, precision)
    xs = [inputs(kind, 24, precision.dtype) for _ in range(DRAWS)]

    @torch.no_grad()
    def unmerged(layer: Any, draw: int) -> Tensor:
        x = xs[draw]
        if layer is twins.exact:
            return kind.outputs(layer(x.double() if x.is_floating_point() else x))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision.autocast):
            return kind.outputs(layer(x))

    @torch.no_grad()
    def merged(layer: Any, draw: int) -> Tensor:
        layer.merge()
        W, b = kind.matrix(layer.base_layer).clone(), getattr(layer.base_layer, "bias", None)
        made = W if b is None else torch.cat([W, b.unsqueeze(0)])
        layer.unmerge()
        return made

    ways = {"the output": unmerged}
    if case.resolved.mergeable and not precision.autocast:
        ways["the merged weight"] = merged
    for name in twins.parameters[1]:
        for what, outcome in ways.items():
            Gain.of(twins, name, precision.eps, outcome).check(f"{what}, {name.rpartition('.')[2]} changed,")
