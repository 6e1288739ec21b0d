"""Memory of a run's rows: texts with a label, read and encoded, in lists and mapped from the disk.

    python benchmarks/many_rows.py --rows 1000000        about eight minutes on one core, 1 GB of disk

Two processes do the same on the same CSV; each tells the most anonymous memory (which only swapping could give back)
that it had over what it began with: while reading and encoding, and afterwards, as training would find it.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = "the a film story of two people who go home at night good bad long short never again".split()  # noqa: SIM905


def anonymous() -> int:
    """Bytes of this process that no file backs (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10


def written(path: Path, rows: int) -> None:
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([" ".join(rng.choices(WORDS, k=rng.randint(10, 60))), i % 2] for i in range(rows))


def child(path: str, model: str, is_mapped: bool) -> None:
    from subspace_tuning.files import stored
    from subspace_tuning.run.pretrained import load_processor
    from subspace_tuning.tasks import load, task_of

    if not is_mapped:
        stored.MANY = 1 << 40
    processor, task = load_processor(model, "AutoTokenizer"), task_of("classification", {"labels": ["0", "1"]})
    task.encode(task.questions(["a film"], [""]), processor, None)
    gc.collect()
    began, peak, stop = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    threading.Thread(target=watch, daemon=True).start()
    data = load(task, path)
    read = peak[0] - began
    inputs = [task.encode(rows, processor, None) for rows in data]
    whole = peak[0] - began
    del data
    gc.collect()
    stop.set()
    size = sum(len(row["input_ids"]) for part in inputs for row in part)
    time.sleep(0.1)
    print(json.dumps({"read": read, "peak": whole, "after": anonymous() - began, "tokens": size}))


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rows", type=int, default=1_000_000)
    given.add_argument("--model", default="minilm")
    given.add_argument("--child", nargs=2, metavar=("FILE", "HOW"), help=argparse.SUPPRESS)
    args = given.parse_args()
    if args.child:
        child(args.child[0], args.model, args.child[1] == "mapped")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        written(path, args.rows)
        print(f"{args.rows:,} rows, {path.stat().st_size / 1e6:.0f} MB")
        for how in ("lists", "mapped"):
            words = [sys.executable, __file__, "--model", args.model, "--child", str(path), how]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            told = ", ".join(f"{found[key] / 1e9:.2f} GB {what}" for key, what in SAID.items())
            print(f"{how}: {told}; {found['tokens']:,} tokens")


SAID = {"read": "at most while reading", "peak": "at most until all is encoded", "after": "from then on"}

if __name__ == "__main__":
    main()
