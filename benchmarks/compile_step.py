"""What torch.compile makes of a step: graph breaks, and time over the floor, eager and compiled.

    python benchmarks/compile_step.py [--methods ssb,lora,dora] [--layers 2] [--rounds 5] [--breaks-only]

Each ratio is to the floor of its own kind: the compiled step to the compiled floor. Writes docs/data/compile_step.json,
from which `make docs` makes a table of docs/floor.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import publish
import torch

from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import has_peer, make
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
    breaks = {
        (name, source): graph_breaks(small, name, source)
        for name in methods
        for source in (("ours", "peft") if has_peer(name) else ("ours",))
    }
    for (name, source), count in breaks.items():
        print(f"{name:12} {source:5} graph breaks {count}")
    if args.breaks_only:
        return
    where = publish.setting()
    eager, compiled = (bench(replace(setting, compiled=on), methods) for on in (False, True))
    rows = [
        {
            "name": a.name,
            "source": a.source,
            "graph_breaks": breaks.get((a.name, a.source)),
            "eager_ratio": a.time_ratio,
            "compiled_ratio": b.time_ratio,
            "compiled_over_eager": _seconds(b) / _seconds(a),
        }
        for a, b in zip(eager, compiled, strict=True)
    ]
    data = {"setting": where | {"layers": args.layers, "rounds": args.rounds}, "contenders": rows}
    print(json.dumps(data, indent=2))
    publish.save(Path("docs/data/compile_step.json"), data)


def _seconds(line: Line) -> float:
    if line.seconds is None:
        raise ValueError(f"{line.name} was not timed")
    return line.seconds


if __name__ == "__main__":
    main()
