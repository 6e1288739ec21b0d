"""Damaged adapters against every command that opens them: how each kind of damage ends.

    python benchmarks/fuzz_adapters.py [--each 200] [--minutes 10] [--seed 0]

Takes a good adapter of each kind, damages a copy by a seed (tests/corruptions.py) and gives it to one command after the
other (tests/attacked.py). Prints a table, and each end that is neither success nor a sentence, by its place.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SUBSPACE_SVD_GB"] = "0"
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from transformers.utils import logging

from attacked import ADAPTERS, Ended, Range
from corruptions import KINDS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=200, help="damaged folders of each adapter")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as home:
        ended = attacked(Range(Path(home)), given.seed, given.each, time.monotonic() + 60 * given.minutes)
    print(table(ended))
    bad = Counter((e.damage, e.command, e.how, e.said) for e in ended if not e.is_fine)
    for (damage, command, how, said), count in bad.most_common():
        print(f"{count} x {how} in {command} of {damage}: {said}")
    return 1 if bad else 0


def attacked(field: Range, seed: int, each: int, until: float) -> list[Ended]:
    """Damage and commands go round together, so that each pair of them comes about."""
    commands, found = list(field.commands()), []
    for number in range(seed, seed + each):
        for i, adapter in enumerate(ADAPTERS):
            if time.monotonic() > until:
                return found
            found.append(field.attack(adapter, number, commands[(number // len(KINDS) + i) % len(commands)]))
    return found


def table(ended: list[Ended]) -> str:
    lines = ["| damage | folders | success | a sentence | anything else | slowest, s |", "|---|---|---|---|---|---|"]
    for kind in [*(kind.__name__ for kind in KINDS), "all"]:
        mine = [e for e in ended if kind in (e.damage, "all")]
        how = Counter(e.how if e.is_fine else "else" for e in mine)
        slowest = max((e.seconds for e in mine), default=0.0)
        lines.append(f"| {kind} | {len(mine)} | {how['success']} | {how['sentence']} | {how['else']} | {slowest:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
