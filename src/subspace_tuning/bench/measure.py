"""What a step costs: seconds, FLOPs, bytes kept for the backward pass, peak memory."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from subspace_tuning import memory
from subspace_tuning.bench.contenders import Contender

Batch = dict[str, Tensor]


class Step:
    """One training step: forward, backward, optimiser."""

    def __init__(self, contender: Contender, batch: Batch, autocast: torch.dtype | None = None):
        self.contender, self.batch, self.autocast = contender, batch, autocast
        trained = contender.trained
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6) if trained else None

    def loss(self) -> Tensor:
        device = self.batch["input_ids"].device.type
        with torch.autocast(device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return self.contender.model(**self.batch).loss

    def __call__(self) -> None:
        self.loss().backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def flops(step: Step) -> int:
    """Floating-point operations of forward and backward pass, as torch counts matrix products."""
    counter = FlopCounterMode(display=False)
    with counter:
        step.loss().backward()
    _forget_gradients(step)
    return counter.get_total_flops()


def saved_bytes(step: Step) -> int:
    """Bytes kept for the backward pass: distinct storages, parameters and buffers left out."""
    model = step.contender.model
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *step.batch.values())}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = step.loss()
    total = sum(kept.values())
    loss.backward()
    _forget_gradients(step)
    return total


def _forget_gradients(step: Step) -> None:
    step.contender.model.zero_grad(set_to_none=True)


def peak_mb(step: Step) -> float:
    """Peak memory of the process (CPU) or of the device (CUDA) during one step, MiB."""
    step()
    memory.start()
    step()
    return memory.peak_mb()


@contextmanager
def _timed(cuda: bool) -> Iterator[Callable[[], float]]:
    if not cuda:
        began = time.perf_counter()
        yield lambda: time.perf_counter() - began
        return
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()

    def seconds() -> float:
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    yield seconds


def interleaved(
    steps: Sequence[Step], rounds: int, warm_up: int = 2, inner: int = 1, tick: Callable[[], Any] = lambda: None
) -> list[list[float]]:
    """Seconds a step by contender and round; every round times all contenders once, in an order of its own."""
    cuda = steps[0].batch["input_ids"].is_cuda
    seconds: list[list[float]] = [[] for _ in steps]
    order = list(range(len(steps)))
    chance = random.Random(0)
    for _ in range(warm_up):
        for step in steps:
            step()
    for _ in range(rounds):
        chance.shuffle(order)
        for k in order:
            with _timed(cuda) as elapsed:
                for _ in range(inner):
                    steps[k]()
                seconds[k].append(elapsed() / inner)
            tick()
    return seconds


def paired_ratio(mine: Sequence[float], floor: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratios of the same round."""
    ratios = sorted(a / b for a, b in zip(mine, floor, strict=True))
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def random_batch(model: nn.Module, batch: int, length: int, device: str) -> Batch:
    """Random tokens and labels for a classifier, or a language model's own tokens as labels."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, config.vocab_size, (batch, length), generator=generator)
    causal = "CausalLM" in type(model).__name__
    labels = ids if causal else torch.randint(0, config.num_labels, (batch,), generator=generator)
    return {"input_ids": ids.to(device), "labels": labels.to(device)}
