"""Whether what was killed goes on as if nothing had been: each section kills something many times and compares bits.

Usage, from the repository's root:

    python benchmarks/reliability.py [SECTION]... [--kills 20] [--seed 0]

Sections: train. A section is a function here that takes a folder, the number of kills and a source of random numbers,
and returns what came of each; it ends with exit code 1 where anything came out otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny

SAME, OTHERWISE, STUCK = "as undisturbed", "other files", "cannot go on"


def train(folder: Path, kills: int, dice: random.Random) -> list[str]:
    """`subspace train` with `save_every: 2`, killed once at a random moment and started again."""
    settings = [
        {},
        {"gradient_accumulation": 3, "batch_size": 6},
        {"checkpoint": "best", "evaluate_every": 2, "early_stopping": 4},
        {"group_by_length": False, "method": {"name": "lora", "r": 2, "init": "eva"}},
    ]
    calm: dict[int, tuple[dict[str, str], float]] = {}
    came = []
    for number in range(kills):
        which = number % len(settings)
        values = {"epochs": 6, "save_every": 2, "method": {"name": "lora", "r": 2}, **settings[which]}
        if which not in calm:
            began = time.perf_counter()
            _subspace_train(tiny.recipe(folder, **values, output=str(folder / f"calm-{which}"))).wait()
            calm[which] = fingerprint(folder / f"calm-{which}"), time.perf_counter() - began
        undisturbed, seconds = calm[which]
        out = folder / f"killed-{number}"
        recipe = tiny.recipe(folder, **values, output=str(out))
        process = _subspace_train(recipe)
        time.sleep(dice.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        failed = _subspace_train(recipe).wait()
        came.append(STUCK if failed else SAME if fingerprint(out) == undisturbed else OTHERWISE)
    return came


def _subspace_train(values: dict) -> subprocess.Popen:
    recipe = Path(values["output"]).with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "subspace_tuning", "train", str(recipe)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def fingerprint(run: Path) -> dict[str, str]:
    """The files of a finished run; of those that tell of time and place only that they are there."""
    told = ("result.json", "metrics.jsonl", "config.yaml")
    return {
        str(path.relative_to(run)): "" if path.name in told else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


SECTIONS: dict[str, Callable[[Path, int, random.Random], list[str]]] = {"train": train}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all without any")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    all_same = True
    for name in asked.sections or SECTIONS:
        with tempfile.TemporaryDirectory() as folder:
            came = Counter(SECTIONS[name](Path(folder), asked.kills, random.Random(asked.seed)))
        print(f"{name}: {came.total()} kills: " + ", ".join(f"{count} {what}" for what, count in came.items()))
        all_same &= set(came) == {SAME}
    sys.exit(not all_same)


if __name__ == "__main__":
    main()
