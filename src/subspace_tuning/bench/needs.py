"""What a training step needs of one process, reckoned from a trace of it: bytes by kind, their peak, FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from subspace_tuning.bench.trace import Traced
from subspace_tuning.errors import BadInput

STATES = {"adamw": 8, "adamw8bit": 2, "sgd": 0}  # bytes that an optimiser keeps for a parameter in single precision
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHARDED: dict[str, tuple[str, ...]] = {  # what of the model each process holds its share of
    "ddp": (),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights"),
    "fsdp": ("optimizer", "gradients", "weights"),
}
OWN = {"cpu": 600_000_000, "cuda": 520_000_000}  # of a process without a model; of the context on a card


@dataclass(frozen=True)
class Setting:
    """How a step is taken; ``batch`` rows of ``length`` tokens are what one process has at a time."""

    batch: int = 8
    length: int = 512
    dtype: str = "fp32"  # of the base
    autocast: bool = False  # computed in bf16
    optimizer: str = "adamw"
    gradient_checkpointing: bool = False
    gradient_accumulation: int = 1
    processes: int = 1
    sharding: str = "ddp"
    device: str = "cpu"

    def __post_init__(self) -> None:
        known: dict[str, Mapping[str, Any]] = {"dtype": DTYPES, "optimizer": STATES, "sharding": SHARDED, "device": OWN}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise BadInput(f"{name} is one of {', '.join(values)}, got {getattr(self, name)!r}")


PARTS = {  # of the bytes, in words
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "states of the optimiser",
    "activations": "activations kept for the backward pass",
    "logits": "logits",
    "exchange": "exchanged between processes",
    "own": "the process itself, or the card's context",
    "peak": "peak",
}


@dataclass(frozen=True)
class Needs:
    """Bytes of one process. The peak is below their sum: gradients come as activations go."""

    setting: Setting
    parameters: int  # of the model with the method on it
    trained: int
    weights: int  # buffers included
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass, logits left out
    logits: int  # most at a time
    exchange: int  # buckets of gradients, weights gathered from other processes
    own: int  # of the process, or of the context on the card
    peak: int
    flops: int

    def seconds(self, tflops: float) -> float:
        """Of a step at a rate of so many 10^12 FLOPs a second."""
        return self.flops / (tflops * 1e12)

    def to_data(self) -> dict[str, Any]:
        return asdict(self)


def needs(model: nn.Module, traced: Traced, setting: Setting) -> Needs:
    """Of a step of this model (on any device, with numbers or without) that was traced."""
    trained = [p for p in model.parameters() if p.requires_grad]
    whole = {
        "weights": sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())),
        "gradients": sum(p.numel() * p.element_size() for p in trained),
        "optimizer": sum(p.numel() * p.element_size() * STATES[setting.optimizer] // 4 for p in trained),
    }
    shares = SHARDED[setting.sharding] if setting.processes > 1 else ()
    own = {name: size // setting.processes if name in shares else size for name, size in whole.items()}
    exchange = _exchange(model, whole["gradients"], setting)
    passing = traced.peak - whole["gradients"] + own["gradients"]
    if setting.gradient_accumulation > 1:  # they are there from one micro-batch to the next
        passing += own["gradients"]
    peak = own["weights"] + own["optimizer"] + exchange + passing + OWN[setting.device]
    return Needs(
        setting=setting,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in trained),
        **own,
        activations=traced.kept,
        logits=traced.logits,
        exchange=exchange,
        own=OWN[setting.device],
        peak=peak,
        flops=traced.flops,
    )


def _exchange(model: nn.Module, gradients: int, setting: Setting) -> int:
    """Buckets of all gradients; where weights are shared out, what lies outside of blocks and two blocks, whole."""
    if setting.processes == 1:
        return 0
    if "weights" not in SHARDED[setting.sharding]:
        return gradients
    sizes = sorted(_bytes(block) for block in _blocks(model))
    return _bytes(model) - sum(sizes) + sum(sizes[-2:])


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
