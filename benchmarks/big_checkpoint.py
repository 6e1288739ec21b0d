"""What commands on a checkpoint of 7B shape take: memory above the interpreter's own, and time of one core.

    python benchmarks/big_checkpoint.py [--width 256] [--methods ssl,ia3,ssb,lora] [--folder DIR]
    python benchmarks/big_checkpoint.py --real-width [--methods ssl,ia3,ssb,lora]

Writes two models of Llama-2-7B's shape (32 blocks, 291 tensors, 32000 words, eight shards, bfloat16) at a shrunk width,
4096 being the real one, and two LoRA adapters, one of them PEFT's own. Each command runs in a process of its own,
forked once everything is imported. With --real-width: minutes of `subspace fit` at the real width, reckoned from one
layer of each size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from subspace_tuning import LoRA, SubspaceConfig
from subspace_tuning.bench import memory
from subspace_tuning.cli import app  # noqa: F401  everything that the command imports
from subspace_tuning.convert.diff import diff
from subspace_tuning.convert.from_peft import import_peft
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.theory.analyze import Look, analyze
from subspace_tuning.theory.fit import Fit, choose
from subspace_tuning.theory.streamed import written

SHARDS = 8


BLOCKS = 32
LAYERS = {"q_proj": 4, "up_proj": 2, "down_proj": 1}  # of each size one, and how many a block has


def config(width: int, blocks: int = BLOCKS) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11008 // 4096,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        vocab_size=32000,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def write(folder: Path, width: int, change: float, blocks: int = BLOCKS) -> None:
    """Random tensors in shards; with ``change``, something added to the same numbers."""
    folder.mkdir()
    config(width, blocks).save_pretrained(folder)
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in LlamaForCausalLM(config(width, blocks)).state_dict().items()}
    index: dict[str, str] = {}
    names = list(shapes)
    for shard in range(SHARDS):
        file, tensors = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors", {}
        for i in range(shard * len(names) // SHARDS, (shard + 1) * len(names) // SHARDS):
            generator = torch.Generator().manual_seed(i)
            W = torch.randn(shapes[names[i]], generator=generator) * width**-0.5
            if change and W.dim() == 2:
                low = [torch.randn(size, 4, generator=generator) for size in W.shape]
                W += change * width**-0.5 * (low[0] @ low[1].T + torch.randn(W.shape, generator=generator))
            tensors[names[i]] = W.to(torch.bfloat16)
        save_file(tensors, folder / file, {"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def adapters(home: Path) -> None:
    ours = SubspaceConfig(method=LoRA(r=8), target_modules="all-linear", init_weights=False, task_type="CAUSAL_LM")
    theirs = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    for name, made in (("ours", ours), ("theirs", theirs)):
        get_peft_model(LlamaForCausalLM.from_pretrained(home / "base"), made).save_pretrained(home / name)


def commands(home: Path, methods: list[str]) -> dict[str, Callable[[], object]]:
    base, tuned, ours, theirs = (home / name for name in ("base", "tuned", "ours", "theirs"))

    def fit() -> None:
        Fit(Checkpoint(base), Checkpoint(tuned), home / "fit").run(choose(methods, 8)[0])

    return {
        f"fit --methods {','.join(methods)}": fit,
        "export --streamed --to merged": lambda: written([ours], home / "merged", "merged"),
        "export --streamed --to lora": lambda: written([ours], home / "lora", "lora"),
        "combine --streamed --to merged": lambda: written([ours, theirs], home / "both", "merged", weights=[0.7, 0.3]),
        "diff": lambda: diff(base, tuned),
        "analyze --scales ''": lambda: analyze(ours, str(base), look=Look(scales=())),
        "import": lambda: import_peft(theirs, home / "imported", str(base)),
    }


def real_width(home: Path, methods: list[str], width: int = 4096) -> dict[str, float]:
    """Minutes of one core, family by family, of a fit to all blocks: one layer of each size, times their number."""
    for name, change in (("base", 0.0), ("tuned", 0.1)):
        write(home / name, width, change, blocks=1)
    minutes: dict[str, float] = {}
    for layer, count in LAYERS.items():
        report = Fit(Checkpoint(home / "base"), Checkpoint(home / "tuned"), home / layer).run(
            choose(methods, 8)[0], layers=layer
        )
        for family, seconds in report.seconds.items():
            minutes[family] = minutes.get(family, 0.0) + BLOCKS * count * seconds / 60
    return minutes


def measured(work: Callable[[], object], told: Path) -> None:
    torch.set_num_threads(1)
    torch.linalg.svd(torch.randn(64, 64))  # libraries that load late are the interpreter's own too
    memory.start()
    own, begun = memory.peak_mb(), time.process_time()
    work()
    told.write_text(json.dumps([memory.peak_mb() - own, time.process_time() - begun]))
    os._exit(0)


def apart(work: Callable[[], object], told: Path) -> list[float]:
    """Memory and seconds of a core that some work takes, in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=measured, args=(work, told))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a command ended with code {process.exitcode}")
    return json.loads(told.read_text())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--methods", default="ssl,ia3,ssb,lora")
    options.add_argument("--folder", type=Path)
    options.add_argument("--real-width", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.real_width:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
            for name, minutes in real_width(Path(made), chosen.methods.split(",")).items():
                print(f"| `{name}` | {minutes:.0f} |", flush=True)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
        home = Path(made)
        for name, change in (("base", 0.0), ("tuned", 0.1)):
            apart(lambda name=name, change=change: write(home / name, chosen.width, change), home / "told.json")
        apart(lambda: adapters(home), home / "told.json")
        base = Checkpoint(home / "base")
        sizes = [2 * torch.Size(base.shape(key)).numel() / 2**20 for key in base.keys()]  # noqa: SIM118
        print(f"{len(sizes)} tensors, {sum(sizes):.0f} MB, the largest {max(sizes):.0f} MB\n")
        print("| command | MB above the interpreter's own | minutes of one core |\n|---|---|---|", flush=True)
        for name, work in commands(home, chosen.methods.split(",")).items():
            peak, seconds = apart(work, home / "told.json")
            print(f"| `subspace {name}` | {peak:.0f} | {seconds / 60:.2f} |", flush=True)


if __name__ == "__main__":
    main()
