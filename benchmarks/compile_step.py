"""What torch.compile makes of a step: graph breaks, and time over the floor, eager and compiled.

    python benchmarks/compile_step.py [--methods ssb,lora,dora] [--layers 2] [--rounds 5] [--breaks-only]

Each ratio is to the floor of its own kind: the compiled step to the compiled floor. The last column is the compiled
floor's time over the eager one's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import FLOOR, has_peer, make
from subspace_tuning.bench.step import ROBERTA_BASE, Line, Setting, base_model, bench


def graph_breaks(setting: Setting, name: str, source: str) -> int:
    """In the forward pass of a contender."""
    base = base_model(setting)
    batch = measure.random_batch(base, setting.batch, setting.length, setting.device)
    torch.compiler.reset()
    return torch._dynamo.explain(make(name, source, base, setting.rank).model)(**batch).graph_break_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="ssb,lora,dora")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--breaks-only", action="store_true", help="time nothing")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(ROBERTA_BASE, layers=args.layers, rounds=args.rounds, device=device)
    methods = args.methods.split(",")

    small = replace(setting, config={**ROBERTA_BASE, "vocab_size": 1000}, layers=1, batch=2, length=16)
    for name in methods:
        for source in ("ours", "peft") if has_peer(name) else ("ours",):
            print(f"{name:12} {source:5} graph breaks {graph_breaks(small, name, source)}", flush=True)
    if args.breaks_only:
        return
    eager, compiled = (bench(replace(setting, compiled=on), methods) for on in (False, True))
    print(f"{'':18}{'eager':>8}{'compiled':>10}   over the floor of the same kind")
    for a, b in zip(eager, compiled, strict=True):
        print(f"{a.name:12} {a.source:5}{a.time_ratio:8.3f}{b.time_ratio:10.3f}")
    floors = [next(line for line in lines if line.source == FLOOR) for lines in (eager, compiled)]
    print(f"compiled floor over eager floor {_seconds(floors[1]) / _seconds(floors[0]):.3f}")


def _seconds(line: Line) -> float:
    if line.seconds is None:
        raise ValueError(f"{line.name} was not timed")
    return line.seconds


if __name__ == "__main__":
    main()
