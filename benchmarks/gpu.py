"""Everything that wants a card, in one command of at most eight minutes, without a network. Prints one JSON.

    pip install --no-index --find-links wheels 'torch>=2.11' 'transformers>=5.20,<6' 'peft>=0.21,<0.22'
    pip install --no-index --find-links wheels 'subspace-tuning[train]'
    python benchmarks/gpu.py > docs/data/gpu.json        # then `make docs` puts it into docs/floor.md
    python benchmarks/gpu.py --rehearse                  # the same on a CPU, tiny, in seconds

laws       each method's layer computes on the card, in fp32 and bf16, what it computes on the CPU in double precision
rate       matrix products that the card reaches
steps      `bench step` at the shapes of RoBERTa-large and of a Llama of 1.2 B parameters in bf16, eager and compiled
peaks      what `subspace estimate` tells beside the peak measured
language   the study of a language model, as far as the time left goes

A part that fails says so in its place, and the others go on. There is no code for CUDA alone that would have to show
its gain.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import estimate
import torch

from subspace_tuning.bench import measure, memory
from subspace_tuning.bench.contenders import FLOOR, make
from subspace_tuning.bench.step import ROBERTA_BASE, Setting, base_model, bench
from subspace_tuning.method.registry import METHODS
from subspace_tuning.testing.cases import Case, tuned
from subspace_tuning.testing.kinds import KINDS, inputs

LARGE = {**ROBERTA_BASE, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
LLAMA = {"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA |= {"intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True}
BESIDE_PEFT = ("ssb", "lora", "dora", "ia3", "vera", "oft", "pissa")
COMPILED = ("ssb", "lora", "dora")
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the norm
SHAPES = (
    ("RoBERTa-large", Setting(LARGE, layers=24, batch=16, length=256, dtype="bfloat16", rounds=5)),
    ("Llama 1.2 B", Setting(LLAMA, layers=16, batch=4, length=1024, dtype="bfloat16", rounds=5)),
)
STUDY = Path("recipes/lm_study.yaml")


class Part:
    """What there is to measure with, and how long."""

    def __init__(self, rehearse: bool, minutes: float):
        self.rehearse, self.end = rehearse, time.monotonic() + 60 * minutes
        self.device = "cuda" if torch.cuda.is_available() and not rehearse else "cpu"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def setting(self, setting: Setting) -> Setting:
        if not self.rehearse:
            return replace(setting, device=self.device)
        small = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 100}
        small |= {"num_key_value_heads": 2} if "num_key_value_heads" in setting.config else {}
        config = {**setting.config, **small}
        return replace(setting, config=config, layers=1, batch=2, length=8, rounds=1, rank=2)


def laws(part: Part) -> dict[str, Any]:
    """Which methods' layers do not compute, forward and backward, what they do on the CPU in double precision."""
    names = [name for name, cls in METHODS.items() if cls.sits_on in ("weight", "bias") and not cls.calibration]
    names = names[:3] if part.rehearse else names
    wrong = []
    for name in names:
        for dtype, close in CLOSE.items():
            if (off := _off(name, dtype, part.device)) > close:
                wrong.append({"method": name, "dtype": str(dtype), "off": off})
    return {"methods": len(names), "wrong": wrong}


def _off(name: str, dtype: torch.dtype, device: str) -> float:
    """The largest relative distance of the output and of all gradients."""
    torch.manual_seed(0)
    kind = KINDS[0]
    truth = tuned(Case(METHODS[name]()), kind, dtype=torch.float64).train()
    tried = copy.deepcopy(truth).to(device, dtype)
    x = inputs(kind, 9, torch.float64)
    found = [
        _computed(model, x.to(where, kept)) for model, where, kept in ((truth, "cpu", x.dtype), (tried, device, dtype))
    ]
    return max(((got - want).norm() / want.norm().clamp(min=1e-6)).item() for want, got in zip(*found, strict=True))


def _computed(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of its square by x and by all that is trained."""
    trained = [x.requires_grad_(), *(p for p in model.parameters() if p.requires_grad)]
    y = model(x)
    return [t.detach().double().cpu() for t in (y, *torch.autograd.grad(y.square().sum(), trained))]


def rate(part: Part) -> dict[str, float]:
    """10^12 FLOPs a second of products of two square matrices: the best of ten."""
    size = 64 if part.rehearse else 8192
    found = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(size, size, device=part.device, dtype=dtype) for _ in range(2))
        seconds = [_seconds(lambda a=a, b=b: a @ b, part.device) for _ in range(12)][2:]
        found[name] = 2 * size**3 / min(seconds) / 1e12
    return found


def _seconds(act: Callable[[], Any], device: str) -> float:
    began = time.perf_counter()
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def steps(part: Part, reached: float, compiled: bool) -> list[dict[str, Any]]:
    """Every contender's step: ratio to the floor, tokens a second, share of the reached rate, peak."""
    found = []
    for name, given in SHAPES:
        methods: Sequence[str] = COMPILED if compiled else BESIDE_PEFT
        if part.rehearse:
            methods = methods[:2]
        setting = replace(part.setting(given), compiled=compiled and not part.rehearse)
        if compiled:  # compilers take a while for each contender
            setting = replace(setting, layers=min(setting.layers, 4))
        if part.left < 30:
            found.append({"shape": name, "left_out": "no time left"})
            continue
        base = base_model(setting)
        data = measure.random_batch(base, setting.batch, setting.length, setting.device)
        floor = measure.flops(measure.Step(make(FLOOR, FLOOR, base), data))
        del base
        lines = bench(setting, methods, peers=not compiled)
        rows = [{**asdict(line), **_speed(line, setting, floor, reached)} for line in lines]
        found.append({"shape": name, "setting": asdict(setting), "contenders": rows})
        if part.device == "cuda":
            torch.cuda.empty_cache()
    return found


def _speed(line: Any, setting: Setting, floor: int, reached: float) -> dict[str, float]:
    per_second = 1 / line.seconds
    share = line.flops_ratio * floor * per_second / (reached * 1e12)
    return {"tokens_per_second": setting.batch * setting.length * per_second, "share_of_rate": share}


def peaks(part: Part) -> list[dict[str, Any]]:
    """Peaks told and measured, each in a process of its own; a rehearsal's in this one."""
    if part.rehearse:
        return [estimate.figures(estimate.TINY, "lora", by=estimate.measure)]
    settings = [(case, dtype) for dtype in ("bf16", "fp32") for case in estimate.CASES]
    return [
        estimate.figures(case._replace(setting=replace(case.setting, device=part.device, dtype=dtype)), method)
        for case, dtype in settings
        for method in estimate.METHODS
        if part.left > 60
    ]


def language(part: Part) -> dict[str, Any]:
    """The sweep of the study, stopped when time is up; it goes on where it was the next time."""
    if part.rehearse or part.left < 60 or not Path("data/commonsense").is_dir():
        return {"left_out": "a rehearsal, no time left, or no data/commonsense (see recipes/commonsense.yaml)"}
    hours = str((part.left - 30) / 3600)
    words = ["subspace_tuning", "sweep", str(STUDY), "--max-hours", hours]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=part.left)
    told = subprocess.run(
        [sys.executable, "-m", "subspace_tuning", "results", "runs/lm-study", "--json"], capture_output=True, text=True
    )
    return {"exit_code": done.returncode, "results": json.loads(told.stdout or "null")}


def tried(act: Callable[[], Any]) -> Any:
    """What it gives, or what went wrong."""
    try:
        return act()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}", "where": traceback.format_exc().splitlines()[-6:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--minutes", type=float, default=7.5)
    asked = parser.parse_args()
    part = Part(asked.rehearse, asked.minutes)
    if part.device == "cpu" and not asked.rehearse:
        parser.error("there is no CUDA device; --rehearse tries everything on the CPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    told: dict[str, Any] = {"device": memory.device_name(), "torch": torch.__version__, "rehearsed": asked.rehearse}
    parts: dict[str, Callable[[], Any]] = {
        "rate": lambda: rate(part),
        "laws": lambda: laws(part),
        "eager": lambda: steps(part, told["rate"]["bf16"], compiled=False),
        "peaks": lambda: peaks(part),
        "compiled": lambda: steps(part, told["rate"]["bf16"], compiled=True),
        "language": lambda: language(part),
    }
    for name, act in parts.items():
        began = time.monotonic()
        told[name] = tried(act)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
