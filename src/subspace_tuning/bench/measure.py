"""What a step costs: seconds, FLOPs, bytes kept for the backward pass, peak memory."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from subspace_tuning.bench import memory
from subspace_tuning.bench.contenders import Contender
from subspace_tuning.errors import BadInput
from subspace_tuning.weights.embedding import positions

Batch = dict[str, Tensor]


class Step:
    """One training step: forward, backward, optimiser; its learning rate of 0 costs the same and changes nothing."""

    def __init__(self, contender: Contender, batch: Batch, autocast: torch.dtype | None = None, compiled: bool = False):
        self.contender, self.batch, self.autocast = contender, batch, autocast
        self.model: Any = torch.compile(contender.model) if compiled else contender.model
        trained, on_gpu = contender.trained, self.device == "cuda"
        self.optimizer = torch.optim.AdamW(trained, lr=0.0, capturable=on_gpu) if trained else None

    @property
    def device(self) -> str:
        return self.batch["input_ids"].device.type

    def loss(self) -> Tensor:
        with torch.autocast(self.device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return self.model(**self.batch).loss

    def __call__(self) -> None:
        self.loss().backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


class Pair(NamedTuple):
    """Seconds of a step, and of the floor's beside it."""

    seconds: float
    floor: float


class Graphed:
    """A step on CUDA captured once as a graph, then replayed: what is left without the launching of kernels."""

    def __init__(self, step: Step):
        self.device, self.graph = step.device, torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self.graph):
            step()

    def __call__(self) -> None:
        self.graph.replay()


class NoModules(ModuleTracker):
    """Modules go untracked: the tracker hooks gradients, and trips over modules that run where there are none."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


def flops(step: Step) -> int:
    """Floating-point operations of forward and backward pass, as torch counts matrix products."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        step.loss().backward()
    _forget_gradients(step)
    return counter.get_total_flops()


class Saved(NamedTuple):
    """A tensor kept for the backward pass."""

    shape: tuple[int, ...]
    bytes: int  # of its storage
    modules: tuple[str, ...]  # in whose forward it is kept


def saved_tensors(step: Step) -> list[Saved]:
    """What is kept for the backward pass: distinct storages, parameters, buffers and the batch left out."""
    model = step.contender.model
    known = {_place(t) for t in (*model.parameters(), *model.buffers(), *step.batch.values())}
    kept: dict[int, tuple[Tensor, dict[str, None]]] = {}
    inside = [""]

    def pack(t: Tensor) -> Tensor:
        place = _place(t)
        if place not in known:
            kept.setdefault(place, (t, {}))[1][inside[-1]] = None  # t stays alive: no other storage takes its place
        return t

    with _following(model, inside), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = step.loss()
    found = [Saved(tuple(t.shape), t.untyped_storage().nbytes(), tuple(names)) for t, names in kept.values()]
    kept.clear()
    loss.backward()
    _forget_gradients(step)
    return found


def _place(t: Tensor) -> int:
    """Where the storage of t lies. Asking for ``data_ptr()`` would make a lazy clone copy what it shares."""
    return torch._C._data_address(t) - t.storage_offset() * t.element_size()  # type: ignore[attr-defined]


@contextmanager
def _following(model: nn.Module, inside: list[str]) -> Iterator[None]:
    """Within, the last of ``inside`` names the module whose forward runs."""

    def leave(*args: Any) -> None:
        inside.pop()

    handles = [
        m.register_forward_pre_hook(lambda *_, name=name: inside.append(name)) for name, m in model.named_modules()
    ]
    handles += [m.register_forward_hook(leave) for m in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def saved_bytes(step: Step) -> int:
    """Bytes kept for the backward pass."""
    return sum(kept.bytes for kept in saved_tensors(step))


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


def beside_floor(
    floor: Step | Graphed,
    steps: Sequence[Step | Graphed],
    rounds: int,
    warm_up: int = 2,
    seed: int = 0,
    tick: Callable[[], Any] = lambda: None,
) -> list[list[Pair]]:
    """Each contender's times, and right before or after each the floor's, since machines change their pace.

    Every round times all contenders once, in an order of its own. Returns a list of pairs for each of ``steps``.
    """
    cuda = floor.device == "cuda"
    pairs: list[list[Pair]] = [[] for _ in steps]
    order = list(range(len(steps)))
    chance = random.Random(seed)
    for _ in range(warm_up):
        for step in (floor, *steps):
            step()
    for _ in range(rounds):
        chance.shuffle(order)
        for k in order:
            floor_first = chance.random() < 0.5
            first, second = (floor, steps[k]) if floor_first else (steps[k], floor)
            times = [_seconds(first, cuda), _seconds(second, cuda)]
            pairs[k].append(Pair(*(reversed(times) if floor_first else times)))
            tick()
    return pairs


def _seconds(step: Step | Graphed, cuda: bool) -> float:
    with _timed(cuda) as elapsed:
        step()
        return elapsed()


def paired_ratio(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Median and quartiles of the ratios to the floor."""
    ratios = sorted(pair.seconds / pair.floor for pair in pairs)
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def random_batch(model: nn.Module, batch: int, length: int, device: str, seed: int = 0) -> Batch:
    """Random tokens and labels for a classifier, or a language model's own tokens as labels.

    Raises BadInput for more tokens than the model has positions for.
    """
    config, room = cast(Any, model.config), positions(model)
    if room is not None and length > room:
        raise BadInput(f"--length {length} is more than the {room} positions of the model; take {room} or less")
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, config.vocab_size, (batch, length), generator=generator)
    causal = "CausalLM" in type(model).__name__
    labels = ids if causal else torch.randint(0, config.num_labels, (batch,), generator=generator)
    return {"input_ids": ids.to(device), "labels": labels.to(device)}
