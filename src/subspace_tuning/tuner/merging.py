"""phi(W) written into the frozen layer, and the original kept, so that unmerging is exact."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor

from subspace_tuning.algebra import NotALinearMap
from subspace_tuning.tuner.offload import at_hand, take_back
from subspace_tuning.tuner.pieces import gathered
from subspace_tuning.weights.parametrised import made_of


class Merging:
    """The part of a tuned layer that merges."""

    def __init__(self) -> None:
        self.merged_adapters: list[str] = []
        self._original: dict[str, Any] = {}  # of what is merged into

    @contextmanager
    def in_hand(self: Any) -> Iterator[None]:
        """Within this, the frozen layer holds its weight whole, wherever it is kept; what was written is kept."""
        with at_hand(self.get_base_layer()), gathered(self.get_base_layer()):
            yield

    def merge(self: Any, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write phi(W) into the frozen layer; the original is kept, so that unmerging is exact."""
        names = [a for a in check_adapters_to_merge(self, adapter_names) if a in self.methods]
        if not names:
            return
        for name in names:
            if not self.methods[name].mergeable:
                raise NotALinearMap(f"{self.methods[name].describe()} is not a map of the weight; keep it unmerged")
        self.check_unmerged()
        take_back(self.containers)
        with self.in_hand():
            self.catch_up(names)
            self._merge(names, safe_merge)

    def _merge(self: Any, names: list[str], safe_merge: bool) -> None:
        together = [*self.merged_adapters, *names]  # phi of the original weight, however they were merged
        with self.original():
            new_weight, new_bias = self.merged_values(together)
        if safe_merge:
            for value in (new_weight, new_bias):
                if value is not None and not torch.isfinite(value).all():
                    raise ValueError(f"NaNs or infinities in the merged weights of {names}; the adapter looks broken")
        W = self.frozen
        before = {k: W.part(k) for k, v in (("weight", new_weight), ("bias", new_bias)) if v is not None}
        try:
            for name in before:
                W.renew(name)
            W.assign(new_weight, new_bias)
        except Exception:
            self._place(before)
            raise
        self._original = before | self._original
        self.merged_adapters = together
        self._lead()

    @torch.no_grad()
    def check_merge(self: Any, adapter_names: list[str] | None = None) -> None:
        """Raise NotTaken where the layer computes its weight from others, and could not compute the merged one."""
        names = [
            a for a in adapter_names or self.active_adapters if a in self.methods and a not in self.merged_adapters
        ]
        base = self.get_base_layer()
        if not names or (made_of(base, "weight") is None and made_of(base, "bias") is None):
            return
        with self.original():
            self.frozen.check_takes(*self.merged_values([*self.merged_adapters, *names]))

    def merged_values(self: Any, adapters: list[str]) -> tuple[Tensor | None, Tensor | None]:
        """phi(W) and the bias after these adapters; None for what they leave alone."""
        W, E, b, _ = self.tuned(adapters)
        new_weight = None if E is W else E.dense().detach().to(W.dtype)
        new_bias = None if b is None or b.now() is W.own_bias else b.now().detach()
        return new_weight, new_bias

    @contextmanager
    def original(self: Any) -> Iterator[None]:
        """Within this, the frozen layer holds its original weight and bias, whatever is merged into it."""
        merged = {name: self.frozen.part(name) for name in self._original}
        self._place(self._original)
        try:
            yield
        finally:
            self._place(merged)

    def _place(self: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.frozen.put(name, value)

    def unmerge(self: Any) -> None:
        """Put the original weight and bias back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        with self.in_hand():
            self._place(self._original)
        self._original.clear()
        self.merged_adapters.clear()
        self._lead()

    def _lead(self: Any) -> None:
        for follower in self.followers:
            follower.follow()
