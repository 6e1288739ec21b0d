"""What each method trains in two processes beside one, tried out: makes the table of docs/processes.md.

    python benchmarks/processes.py [--only NAME ...]

Every method sits on a small BERT with random weights and takes a few steps of SGD, by one process with the whole batch,
and by two with half of it each: under DDP and under FSDP2 (gloo, on the CPU). The figure is the greatest distance
between two numbers that it trained or stored. Nothing in it depends on speed.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "tuner")]
PAGE, DATA = ROOT / "docs" / "processes.md", ROOT / "docs" / "data" / "processes.json"
MARKER, NEAR = "<!-- processes -->", 1e-3
WAYS = ("ddp", "fsdp2")


def work(rank: int, port: int, names: list[str], found: Any) -> None:
    from test_processes import RANKS, alone, apart, ddp, fsdp2, trained

    from cases import SINGLE
    from models import batch, bert

    torch.set_num_threads(1)
    address = f"tcp://localhost:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS, timeout=timedelta(minutes=2))
    torch.manual_seed(1)
    whole = batch(bert, 4)
    part = {k: v[2 * rank : 2 * rank + 2] for k, v in whole.items()}
    for case in (c for c in SINGLE if not names or c.resolved.name in names):
        if getattr(case.resolved, "dropout", 0):
            continue  # masks of half a batch are others
        want = trained(case, alone, whole)
        for way, wrap in zip(WAYS, (ddp, fsdp2), strict=True):
            try:
                found[rank, str(case), way] = apart(trained(case, wrap, part), want)
            except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
                found[rank, str(case), way] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if rank == 0:
            print(case, [found[rank, str(case), way] for way in WAYS], flush=True)
    dist.destroy_process_group()


def tried(names: list[str]) -> dict[str, dict[str, float | str]]:
    """By method, for each way the greatest distance in either process, or what it raised."""
    store = dist.TCPStore("localhost", 0, 1, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    with mp.Manager() as manager:
        shared = manager.dict()
        mp.spawn(work, (port, names, shared), nprocs=2)
        found = dict(shared)
    both = {(case, way): [found[rank, case, way] for rank in (0, 1)] for _, case, way in found}
    told: dict[str, dict[str, float | str]] = {}
    for (case, way), each in both.items():
        raised = [x for x in each if isinstance(x, str)]
        told.setdefault(case, {})[way] = raised[0] if raised else max(each)
    return told


def shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0e}" if value < NEAR else f"**{value:.0e}**"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="*", default=[], metavar="NAME", help="methods; the others keep their rows")
    kept = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    told = kept | tried(options.parse_args().only)
    rows = [(f"`{case}`", *(shown(ways[way]) for way in WAYS)) for case, ways in sorted(told.items())]
    header = ("method", "DDP", "FSDP2")
    text = f"\n{table(header, rows)}\ntorch {torch.__version__}, gloo, two processes.\n"
    write(DATA, json.dumps(dict(sorted(told.items())), indent=1) + "\n")
    write(PAGE, with_table(PAGE.read_text(encoding="utf-8"), text, MARKER, str(PAGE)))


if __name__ == "__main__":
    main()
