"""A fused weight that one adapter tunes as a whole and another in slices: either is at work, never both at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor

from subspace_tuning.weights.slices import Slice, as_whole, seat_of, tuned_slices, with_slices


class Apart:
    """The part of a tuned layer that knows of the others on the same weight."""

    def rivals(self: Any) -> list[Any]:
        """The tuned layers on slices of this one's weight, or the one on the whole that this one's is a slice of."""
        base = self.get_base_layer()
        if not isinstance(base, Slice):
            return tuned_slices(base)
        seat = seat_of(base.host)
        return [] if seat is base.host else [seat]

    def check_alone(self: Any, adapters: list[str]) -> None:
        """Raise ValueError where another adapter is active on the same weight."""
        for rival in self.rivals():
            if others := [a for a in rival.active_adapters if a in rival.methods and not rival.disable_adapters]:
                raise ValueError(
                    f"{adapters} tune {self.path} and {others} tune {rival.path}, one a whole weight and the other a "
                    "slice of it: activate one at a time"
                )

    def check_unmerged(self: Any) -> None:
        """Raise ValueError where another adapter is merged into the same weight."""
        for rival in self.rivals():
            if rival.merged_adapters:
                raise ValueError(
                    f"{rival.merged_adapters} are merged into {rival.path}, which shares its weight with {self.path}: "
                    "unmerge them first"
                )

    @contextmanager
    def rivals_unmerged(self: Any) -> Iterator[None]:
        """Within this, the weight is the original, whatever the others have merged into it."""
        with ExitStack() as stack:
            for rival in self.rivals():
                stack.enter_context(rival.original())
            yield

    @contextmanager
    def whole(self: Any) -> Iterator[None]:
        """Within this, the frozen layer computes without its slices."""
        host = self.get_base_layer()
        with nullcontext() if isinstance(host, Slice) else as_whole(host):
            yield

    def in_slices(self: Any, x: Tensor, y: Tensor, names: Sequence[str]) -> Tensor:
        """y, which the frozen layer makes of x, where the rows' own adapters tune slices of it."""
        host = self.get_base_layer()
        return y if isinstance(host, Slice) or not tuned_slices(host) else with_slices(host, x, y, names)
