"""``subspace bench step``: every contender's training step against the floor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import FLOOR, FULL, Contender, has_peer, make
from subspace_tuning.errors import BadInput
from subspace_tuning.registry import METHODS

ROBERTA_BASE = {
    "model_type": "roberta",
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}


@dataclass(frozen=True)
class Line:
    """One contender beside the floor; ratios are to the floor of the same round."""

    name: str
    source: str
    time_ratio: float
    time_low: float
    time_high: float
    flops_ratio: float
    saved_bytes_ratio: float
    saved_mb: float
    peak_mb: float
    seconds: float
    startup_seconds: float
    trained: int
    adapter_bytes: int


@dataclass(frozen=True)
class Setting:
    """What is measured on."""

    config: dict[str, Any]
    layers: int = 4
    batch: int = 8
    length: int = 128
    rank: int = 8
    rounds: int = 7
    dtype: str = "float32"
    autocast: bool = False
    device: str = "cpu"


def base_model(setting: Setting) -> nn.Module:
    """The model of the setting with random weights."""
    values = {**setting.config, "num_hidden_layers": setting.layers}
    kind = values.pop("model_type")
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **values)
    decoder = kind in ("llama", "qwen2", "qwen3", "mistral", "gpt2")
    auto = AutoModelForCausalLM if decoder else AutoModelForSequenceClassification
    with torch.device(setting.device):
        return auto.from_config(config, dtype=getattr(torch, setting.dtype))


def contenders(base: nn.Module, methods: Sequence[str], peers: bool, rank: int) -> list[Contender]:
    """The floor, full fine-tuning, our methods and PEFT's."""
    found = [make(FLOOR, FLOOR, base), make(FULL, FULL, base)]
    for name in methods:
        found.append(make(name, "ours", base, rank))
        if peers and has_peer(name):
            found.append(make(name, "peft", base, rank))
    return found


def bench(
    setting: Setting,
    methods: Sequence[str] | None = None,
    peers: bool = True,
    timed: bool = True,
    tick: Callable[[int], Any] = lambda total: None,
) -> list[Line]:
    """Measure every contender; ``timed=False`` gives only the figures that do not depend on the machine."""
    base = base_model(setting)
    names = list(methods) if methods else [n for n, cls in METHODS.items() if cls.sits_on != "tokens"]
    autocast = torch.bfloat16 if setting.autocast else None
    batch = measure.random_batch(base, setting.batch, setting.length, setting.device)
    steps = [measure.Step(c, batch, autocast) for c in contenders(base, names, peers, setting.rank)]
    fixed = [(measure.flops(s), measure.saved_bytes(s)) for s in steps]
    total = len(steps) * setting.rounds
    seconds = (
        measure.interleaved(steps, setting.rounds, tick=lambda: tick(total)) if timed else [[float("nan")]] * len(steps)
    )
    peaks = [measure.peak_mb(s) if timed else float("nan") for s in steps]
    lines = []
    for step, (flops, saved), mine, peak in zip(steps, fixed, seconds, peaks, strict=True):
        middle, low, high = measure.paired_ratio(mine, seconds[0])
        c = step.contender
        lines.append(
            Line(
                name=c.name,
                source=c.source,
                time_ratio=middle,
                time_low=low,
                time_high=high,
                flops_ratio=flops / fixed[0][0],
                saved_bytes_ratio=saved / fixed[0][1],
                saved_mb=saved / 1e6,
                peak_mb=peak,
                seconds=sorted(mine)[len(mine) // 2],
                startup_seconds=c.startup_seconds,
                trained=sum(p.numel() for p in c.trained),
                adapter_bytes=c.adapter_bytes,
            )
        )
    return lines


def to_data(setting: Setting, lines: Sequence[Line], device: str) -> dict[str, Any]:
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "setting": asdict(setting),
        "contenders": [asdict(line) for line in lines],
    }


def read_config(path: Path | None) -> dict[str, Any]:
    """A model's config.json; without one the shape of RoBERTa-base."""
    if path is None:
        return dict(ROBERTA_BASE)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the model's config {path}: {error}") from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise BadInput(f"{path} is not the config.json of a transformers model: it names no model_type")
    return {k: v for k, v in data.items() if k not in ("architectures", "transformers_version", "torch_dtype")}
