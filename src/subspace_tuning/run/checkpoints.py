"""The checkpoints of a run: sealed when they are whole, and taken up again only if they still are.

A seal is a file of checksums, written last. A checkpoint without it was cut off while it was written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import xxhash

from subspace_tuning.files.aside import bring_to_disk, write

SEAL = "seal.json"
KEPT = 2  # newest checkpoints, beside the best
PICKLES = (".bin", ".pt", ".pth", ".pkl")  # could run code; nothing of a run is kept as one


class Checkpoints:
    """The folders checkpoint-STEP in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def at(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Of those that are sealed, the newest first."""
        return sorted((step_of(path) for path in self._all() if (path / SEAL).is_file()), reverse=True)

    def seal(self, step: int, best: int | None, noted: int) -> None:
        """Say that a checkpoint is whole; older ones go, but for the best and one to spare.

        noted: the bytes of metrics.jsonl by then.
        """
        path = self.at(step)
        for file in path.iterdir():
            if file.suffix in PICKLES:  # Trainer leaves its arguments
                file.unlink()
        bring_to_disk(path)
        sums = {file.name: _checksum(file) for file in sorted(path.iterdir()) if file.is_file()}
        write(path / SEAL, json.dumps({"step": step, "best": best, "noted": noted, "files": sums}, indent=2) + "\n")
        for old in self.steps()[KEPT:]:
            if old != best:
                shutil.rmtree(self.at(old))

    def noted(self, step: int) -> int:
        return json.loads((self.at(step) / SEAL).read_text(encoding="utf-8"))["noted"]

    def drop(self, step: int) -> None:
        shutil.rmtree(self.at(step), ignore_errors=True)

    def drop_unsealed(self) -> None:
        """Remove what was cut off."""
        for path in self._all():
            if not (path / SEAL).is_file():
                shutil.rmtree(path)

    def last(self, say: Callable[[str], None] = lambda text: None) -> Path | None:
        """The newest sound checkpoint; ``say`` is told of those that are not, which are put away as damaged-STEP."""
        self.drop_unsealed()
        sealed = self.steps()
        for step in sealed:
            wrong = self.damage(step)
            if wrong is None:
                return self.at(step)
            say(f"passes over {self.at(step)}: {wrong}")
            away = self.folder / f"damaged-{step}"
            shutil.rmtree(away, ignore_errors=True)
            self.at(step).rename(away)
        if sealed:
            say(f"no checkpoint in {self.folder} can be used; the run starts over")
        return None

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint, or with the best one that it goes back to; None where all is well."""
        path = self.at(step)
        try:
            held = json.loads((path / SEAL).read_text(encoding="utf-8"))
            files, best, _ = dict(held["files"]), held["best"], int(held["noted"])
        except FileNotFoundError:
            return f"{SEAL} is missing"
        except (OSError, ValueError, KeyError, TypeError):
            return f"{SEAL} is damaged"
        for name, checksum in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if _checksum(path / name) != checksum:
                return f"{name} is damaged"
        for file in path.iterdir():
            if file.suffix in PICKLES:
                return f"{file.name} is none of its files, and could run code"
        if best is not None and best != step and (wrong := self.damage(best)) is not None:
            return f"its best one so far, {self.at(best).name}, cannot be used: {wrong}"
        return None

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]


def step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _checksum(path: Path) -> str:
    told = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            told.update(block)
    return told.hexdigest()
