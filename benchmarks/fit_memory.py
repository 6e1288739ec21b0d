"""A fit of a 2 GB checkpoint stays within 600 MB above the interpreter's own memory, and so does an analysis.

    python benchmarks/fit_memory.py [--gb 2] [--methods ssl,ia3,ssb,lora,dora] [--folder DIR]
    python benchmarks/fit_memory.py --analyze [--gb 2] [--folder DIR]

Writes two synthetic checkpoints in shards (random blocks of 1024 x 4096 in float32), fits or analyses them, and prints
the peak of the process above what it held once everything was imported.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from subspace_tuning.bench import memory
from subspace_tuning.cli import app  # noqa: F401  everything that the command imports
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.theory.analyze import analyze
from subspace_tuning.theory.fit import Fit, choose

N, M, A_SHARD = 1024, 4096, 16


def write(folder: Path, gb: float, change: float) -> Path:
    """Shards of 16 matrices each, with an index; with ``change``, something added to the same numbers."""
    folder.mkdir(parents=True)
    count = max(1, round(gb * 2**30 / (4 * N * M)))
    index = {}
    for start in range(0, count, A_SHARD):
        shard, tensors = f"model-{start:05}.safetensors", {}
        for i in range(start, min(start + A_SHARD, count)):
            generator = torch.Generator().manual_seed(i)
            W = torch.randn(M, N, generator=generator) * N**-0.5
            if change:
                low = torch.randn(M, 4, generator=generator) @ torch.randn(4, N, generator=generator)
                W += change * (low + torch.randn(M, N, generator=generator)) * N**-0.5
            tensors[f"layers.{i}.up_proj.weight"] = W
        save_file(tensors, folder / shard)
        index |= dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def fitted(base: Path, tuned: Path, names: list[str]) -> int:
    """How many layers were fitted."""
    methods, _ = choose(names, 8)
    report = Fit(Checkpoint(base), Checkpoint(tuned), tuned.parent / "fit").run(methods)
    for family in report.families:
        print(f"{family.method.name:12} captured {family.captured_energy:.4f}")
    return len(report.places.places)


def looked_at(base: Path, tuned: Path) -> int:
    """How many layers were analysed."""
    summary = analyze(tuned, str(base))["summary"]
    print(", ".join(f"{key} {value:.3g}" for key, value in summary.items()))
    return summary["layers"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--gb", type=float, default=2.0)
    options.add_argument("--methods", default="ssl,ia3,ssb,lora")
    options.add_argument("--analyze", action="store_true", help="look at what training did instead of fitting")
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
        base = write(Path(made, "base"), chosen.gb, 0.0)
        tuned = write(Path(made, "tuned"), chosen.gb, 0.1)
        torch.linalg.svd(torch.randn(64, 64))  # libraries that load late are the interpreter's own too
        memory.start()
        own, begun = memory.peak_mb(), time.perf_counter()
        layers = looked_at(base, tuned) if chosen.analyze else fitted(base, tuned, chosen.methods.split(","))
        above, seconds = memory.peak_mb() - own, time.perf_counter() - begun
        print(f"{chosen.gb:g} GB, {layers} layers, {seconds:.0f} s: {above:.0f} MB above {own:.0f} MB, allowed 600")


if __name__ == "__main__":
    main()
