"""What a process of a training holds for itself until its first step: makes the figures of docs/processes.md.

    python benchmarks/processes_memory.py [--model smollm2]

One process, and two that share its weights out (FSDP2, gloo, on the CPU), train a method each. A thread of each reads
what no other process can use (``Anonymous`` of Linux' smaps_rollup) every 20 ms, until the first step begins: the
checkpoint, the method's start, sharding. Of pages that are mapped from the checkpoint's file there is one copy,
whatever the number of processes, and the system takes it back when it needs room.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import threading
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from transformers import TrainerCallback

from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "run")]
PAGE, MARKER = ROOT / "docs" / "processes.md", "<!-- processes memory -->"
SHORT = {"task": "conversations", "batch_size": 2, "max_length": 64, "max_steps": 1, "train_samples": 4}
SHORT |= {"eval_samples": 4, "evaluate_every": "end", "save_every": "never"}
CASES = [  # method, dtype
    ("lora", None),
    ("pissa", None),
    ("ssb", None),
    ("lora", "bf16"),
]


class Begun(Exception):
    """The first step begins."""


class Own(TrainerCallback):
    """The most that this process has held for itself since it was made, in MB."""

    def __init__(self) -> None:
        self.before = self.most = own()
        self.over = threading.Event()
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, own())

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.over.set()
        self.at_last = own()
        raise Begun


def own() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1000
    raise SystemExit("this needs Linux' /proc/self/smaps_rollup")


def work(rank: int, count: int, port: int, words: dict[str, Any], told: Any) -> None:
    from test_several_processes import FSDP2, Sharding

    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), **FSDP2}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with patch("accelerate.accelerator.AcceleratorState", Sharding):
        watch = Own()
        try:
            run(make(words), callbacks=[watch])
        except Begun:
            told[rank] = watch.most - watch.before, watch.at_last - watch.before
    os._exit(0)


def held(count: int, words: dict[str, Any]) -> tuple[float, float]:
    """MB for itself, of the process that has most: at the most, and when its first step begins."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with get_context("spawn").Manager() as manager, tempfile.TemporaryDirectory() as folder:
        told, words = manager.dict(), {**words, "output": folder + "/run"}
        started = [get_context("spawn").Process(target=work, args=(r, count, port, words, told)) for r in range(count)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if len(told) < count:
            raise SystemExit(f"a process of {count} failed")
        return max(most for most, _ in told.values()), max(at_last for _, at_last in told.values())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2")
    given = options.parse_args()
    rows = []
    for method, dtype in CASES:
        for count in (1, 2):
            most, at_last = held(count, {**SHORT, "model": given.model, "method": method, "dtype": dtype})
            rows.append((f"`{method}`", dtype or "as in the file", str(count), f"{most:.0f}", f"{at_last:.0f}"))
            print(*rows[-1], flush=True)
    header = ("method", "dtype", "processes", "at the most, MB", "at the first step, MB")
    write(PAGE, with_table(PAGE.read_text(encoding="utf-8"), f"\n{table(header, rows)}\n", MARKER, str(PAGE)))


if __name__ == "__main__":
    main()
