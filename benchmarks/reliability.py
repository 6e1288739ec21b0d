"""What happens when something goes wrong, tried many times: each section breaks one thing and tells what came of it.

Usage, from the repository's root:

    python benchmarks/reliability.py [SECTION]... [--kills 20] [--fuzz 300] [--steps 10000] [--rows 1000000] [--seed 0]

A section prints its rows as they come and keeps them in docs/data/reliability.json, from which docs/reliability.md is
made; without a section all run. Commands run in processes forked from one that has imported everything (reliable/).
Ends with exit code 1 where anything came out otherwise than it should.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "SUBSPACE_SVD_GB": "0"}

from reliable import disks, fuzz, kills, many, same, sweeps, training
from reliable.workplace import Asked, Section, Workplace
from transformers.utils import logging

from subspace_tuning.files.aside import write
from subspace_tuning.pages.reliability import DATA

SECTIONS: dict[str, Section] = {
    "train": training.train,
    "stop": training.stop,
    "kills": kills.kills,
    "signals": kills.signals,
    "breakdown": training.breakdown,
    "clock": training.clock,
    "together": training.together,
    "sweep": sweeps.sweep,
    "minilm": sweeps.minilm,
    "disks": disks.disks,
    "memory": disks.memory,
    "fuzz-adapters": fuzz.section(fuzz.adapters),
    "fuzz-recipes": fuzz.section(fuzz.recipes),
    "fuzz-runs": fuzz.section(fuzz.run_folders),
    "fuzz-data": fuzz.section(fuzz.data_files),
    "fuzz-archives": fuzz.section(fuzz.archives),
    "adapters": many.adapters,
    "rows": many.rows,
    "same": same.same,
}
FUZZ = {name: ("fuzz",) for name in SECTIONS if name.startswith("fuzz")}
COUNTED = {"minilm": (), "disks": (), "same": (), "adapters": ("steps",), "rows": ("rows",)} | FUZZ  # else kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all without any")
    parser.add_argument("--kills", type=int, default=20, help="of each thing, and as many before a change of its files")
    parser.add_argument("--fuzz", type=int, default=300, help="damaged inputs of each kind")
    parser.add_argument("--steps", type=int, default=10_000, help="of adding, switching and deleting adapters")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large table")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    sections = given.pop("sections") or list(SECTIONS)
    logging.disable_progress_bar()  # as the command line does
    gc.collect()
    gc.freeze()  # else each fork's own collections copy all that was imported
    ended = [run(name, Asked(**given)) for name in sections]  # all, whatever the first ones say
    sys.exit(not all(ended))


def run(name: str, asked: Asked) -> bool:
    """Whether all came as it should; the section's rows are kept whatever they say."""
    began, rows = time.perf_counter(), []
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        for row in SECTIONS[name](Workplace(Path(folder)), asked):
            rows.append({**vars(row), "came": dict(row.came)})
            print(f"{name}: {row.what}: {dict(row.came)} {row.figures} {' | '.join(row.faults[:5])}", flush=True)
    counts = {count: getattr(asked, count) for count in COUNTED.get(name, ("kills",))}
    keep(name, {"seconds": round(time.perf_counter() - began), "seed": asked.seed, "counts": counts, "rows": rows})
    return not any(row["faults"] for row in rows)


def keep(name: str, found: dict) -> None:
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {"sections": {}}
    import torch

    about = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "torch": torch.__version__}
    held = data["sections"] | {name: found}
    ordered = {name: held[name] for name in SECTIONS if name in held}
    write(DATA, json.dumps(about | {"sections": ordered}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
