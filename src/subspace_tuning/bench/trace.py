"""A training step on tensors that have shapes and no numbers: what lives when, and how many FLOPs.

torch's fake tensors take every operation of the real step, forward and backward, at no cost in memory; what is counted
are the storages that live at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from subspace_tuning.algebra.kernels import traced_for
from subspace_tuning.bench.measure import NoModules

aten: Any = torch.ops.aten
ON_CPU = {  # attention as the CPU computes it, which torch's counter leaves out
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Traced:
    """Bytes of a step beyond the parameters, buffers and inputs, and its FLOPs."""

    kept: int  # for the backward pass, logits left out
    logits: int  # most at a time
    peak: int  # gradients that are there by then included
    flops: int


@dataclass(eq=False)
class _Memory:
    """A storage, or several that share memory until one is written into."""

    bytes: int
    of_logits: bool
    storages: int = 0


class _Living(TorchDispatchMode):
    """Within it: the bytes of the storages that operations have made and that are alive."""

    def __init__(self, fake: FakeTensorMode, known: Iterator[Tensor], vocabulary: int | None, tokens: int):
        super().__init__()
        self._fake = fake
        self.now = self.peak = self.logits = self.most_logits = 0
        self._vocabulary, self._tokens = vocabulary, tokens
        self._seen: weakref.WeakKeyDictionary[Any, _Memory | None] = weakref.WeakKeyDictionary()
        for t in known:
            self._seen[t.untyped_storage()] = None

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._fake.cache_enabled = op is not aten.set_.source_Storage_storage_offset  # whose storage it would hold
        out = op(*args, **(kwargs or {}))
        shares = self._seen.get(args[0].untyped_storage()) if op is aten._lazy_clone.default else None
        for t in tree_iter(out):
            if isinstance(t, Tensor):
                self._note(t, shares)
        return out

    def _note(self, t: Tensor, shares: _Memory | None) -> None:
        storage = t.untyped_storage()
        if storage in self._seen:
            return
        memory = shares or _Memory(storage.nbytes(), self._is_logits(t))
        if not memory.storages:
            self._add(memory, 1)
        memory.storages += 1
        self._seen[storage] = memory
        weakref.finalize(storage, self._gone, memory)

    def _is_logits(self, t: Tensor) -> bool:
        return t.dim() > 1 and t.shape[-1] == self._vocabulary and 2 * t.shape[:-1].numel() > self._tokens

    def _gone(self, memory: _Memory) -> None:
        memory.storages -= 1
        if not memory.storages:
            self._add(memory, -1)

    def _add(self, memory: _Memory, times: int) -> None:
        self.now += times * memory.bytes
        self.logits += times * memory.bytes * memory.of_logits
        self.peak, self.most_logits = max(self.peak, self.now), max(self.most_logits, self.logits)


class Trace:
    """A model (on the meta device) whose steps are traced; ``vocabulary`` tells logits from other tensors.

    device: cpu or cuda, whose ways of computing the step are taken.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None, device: str, vocabulary: int | None = None):
        self.model, self.autocast, self.device, self.vocabulary = model.train(), autocast, device, vocabulary
        self.mode = FakeTensorMode()
        with self.mode:
            _without_numbers(model)

    def __call__(self, inputs: Callable[[], Batch], tokens: int) -> Traced:
        """Of a step on these inputs, made anew, of so many tokens."""
        autocast = torch.autocast("cpu", self.autocast) if self.autocast else nullcontext()
        with self.mode, _stands_for(self.device):
            batch = inputs()
            known = (*self.model.parameters(), *self.model.buffers(), *batch.values())
            living = _Living(self.mode, iter(known), self.vocabulary, tokens)
            with living, _counting() as counter:
                with autocast:
                    loss = self.model(**batch).loss
                kept = living.now - living.logits
                loss.backward()
            self.model.zero_grad(set_to_none=True)
        return Traced(kept, living.most_logits, living.peak, counter.get_total_flops())


def _counting() -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    counter.flop_registry |= ON_CPU
    return counter


def _without_numbers(model: nn.Module) -> None:
    """Put fake tensors in the place of all parameters and buffers, shared ones shared again."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, t in held.items():
                if t is not None:
                    if id(t) not in made:
                        made[id(t)] = _fake(t)
                    held[name] = made[id(t)]  # type: ignore[assignment]


def _fake(t: Tensor) -> Tensor:
    fake = torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device="cpu")
    return nn.Parameter(fake, t.requires_grad) if isinstance(t, nn.Parameter) else fake


@contextmanager
def _stands_for(device: str) -> Iterator[None]:
    token = traced_for.set(device)
    try:
        yield
    finally:
        traced_for.reset(token)
