"""``subspace bench step``: every contender's training step against the floor."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import FLOOR, FULL, Contender, has_peer, make
from subspace_tuning.bench.reach import REACH
from subspace_tuning.errors import BadInput
from subspace_tuning.method.registry import METHODS

ROBERTA_BASE = {
    "model_type": "roberta",
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
SMOLLM2_135M = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
SHAPES = {"roberta": ROBERTA_BASE, "llama": SMOLLM2_135M}


@dataclass(frozen=True)
class Line:
    """One contender beside the floor; None: not measured.

    Times are ratios to the floor timed right before or after, median and quartiles; the floor's own are those of the
    floor beside itself, and show what the machine adds.
    """

    name: str
    source: str  # floor | full | ours | peft
    time_ratio: float | None
    time_low: float | None
    time_high: float | None
    flops_ratio: float
    saved_bytes_ratio: float
    saved_mb: float
    peak_mb: float | None
    seconds: float | None
    startup_seconds: float | None
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
    seed: int = 0
    compiled: bool = False
    graphs: bool = False
    modules: tuple[str, ...] = ()  # () for every method's own default


def base_model(setting: Setting) -> nn.Module:
    """The model of the setting with random weights."""
    values = {**setting.config, "num_hidden_layers": setting.layers}
    kind = values.pop("model_type")
    torch.manual_seed(setting.seed)
    config = AutoConfig.for_model(kind, **values)
    decoder = kind in ("llama", "qwen2", "qwen3", "mistral", "gpt2")
    auto = AutoModelForCausalLM if decoder else AutoModelForSequenceClassification
    with torch.device(setting.device):
        return auto.from_config(config, dtype=getattr(torch, setting.dtype))


def contenders(base: nn.Module, methods: Sequence[str], peers: bool, setting: Setting) -> list[Contender]:
    """The floor, full fine-tuning, our methods and PEFT's."""
    modules = list(setting.modules) or None
    found = [make(FLOOR, FLOOR, base), make(FULL, FULL, base)]
    for name in methods:
        found.append(make(name, "ours", base, setting.rank, modules))
        if peers and has_peer(name):
            found.append(make(name, "peft", base, setting.rank, modules))
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
    batch = measure.random_batch(base, setting.batch, setting.length, setting.device, setting.seed)
    found = contenders(base, methods or names(), peers, setting)
    autocast = torch.bfloat16 if setting.autocast else None
    steps = [measure.Step(c, batch, autocast) for c in found]
    fixed = [(measure.flops(s), measure.saved_bytes(s)) for s in steps]
    times = _times(steps, setting, tick) if timed else [None] * len(steps)
    floor = fixed[0]
    return [
        Line(
            name=c.name,
            source=c.source,
            flops_ratio=flops / floor[0],
            saved_bytes_ratio=saved / floor[1],
            saved_mb=saved / 1e6,
            trained=sum(p.numel() for p in c.trained),
            adapter_bytes=c.adapter_bytes,
            **(own or dict.fromkeys(TIMED)),
        )
        for c, (flops, saved), own in zip(found, fixed, times, strict=True)
    ]


TIMED = ("time_ratio", "time_low", "time_high", "peak_mb", "seconds", "startup_seconds")


def _times(steps: list[measure.Step], setting: Setting, tick: Callable[[int], Any]) -> list[dict[str, float]]:
    """The fields of a line that the machine decides."""
    runs: list[measure.Step | measure.Graphed] = [*steps]
    if setting.compiled:
        runs = [measure.Step(s.contender, s.batch, s.autocast, compiled=True) for s in steps]
    if setting.graphs:
        runs = [measure.Graphed(s) for s in steps]
    total = len(runs) * setting.rounds
    timed = measure.beside_floor(runs[0], runs, setting.rounds, seed=setting.seed, tick=lambda: tick(total))
    found = []
    for step, pairs in zip(steps, timed, strict=True):
        ratios = zip(TIMED, measure.paired_ratio(pairs), strict=False)
        own = {"peak_mb": measure.peak_mb(step), "startup_seconds": step.contender.startup_seconds}
        found.append({**dict(ratios), **own, "seconds": statistics.median(pair.seconds for pair in pairs)})
    return found


def names(every: bool = False) -> list[str]:
    """The methods of the reach table; or all that do not sit on tokens."""
    return (
        [n for n, cls in METHODS.items() if cls.sits_on != "tokens"] if every else [n for g in REACH for n in g.names]
    )


def to_data(setting: Setting, lines: Sequence[Line], device: str) -> dict[str, Any]:
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "setting": asdict(setting),
        "contenders": [asdict(line) for line in lines],
    }


def read_config(model: str) -> dict[str, Any]:
    """One of SHAPES by its name, or a model's config.json."""
    if model in SHAPES:
        return dict(SHAPES[model])
    path = Path(model)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the model's config {path}: {error}; name one, or {' or '.join(SHAPES)}") from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise BadInput(f"{path} is not the config.json of a transformers model: it names no model_type")
    return {k: v for k, v in data.items() if k not in ("architectures", "transformers_version", "torch_dtype")}
