"""What sections work on: a model, runs of it, and how a folder is compared with another."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import tiny
from subspace_tuning.cli import app
from subspace_tuning.files.aside import is_aside
from subspace_tuning.run import train
from subspace_tuning.run.recipe import make

from .forks import forked

TOLD = ("result.json", "metrics.jsonl", "config.yaml", "log.txt")  # of time and place: that they are there
DATE = re.compile(rb"\d{4}-\d\d-\d\d at \d\d:\d\d")
SAME = "as undisturbed"


@dataclass
class Row:
    """One line of the table.

    came: how it ended -> how often; faults: what should not have been, one sentence each.
    """

    what: str
    tried: str
    came: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    figures: str = ""

    def fault(self, said: str) -> None:
        self.came["otherwise"] += 1
        self.faults.append(said[:300])


@dataclass(frozen=True)
class Asked:
    """How often, and from which seed."""

    kills: int
    fuzz: int
    steps: int
    rows: int
    seed: int

    @property
    def blows(self) -> str:
        return f"{self.kills}, half at random moments, half before a change of the file system"

    def dice(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")


Section = Callable[["Workplace", Asked], Iterator[Row]]


@dataclass
class Workplace:
    """A folder with a tiny model, its data, and finished runs of it; each made when it is asked for."""

    home: Path

    @cached_property
    def lora(self) -> Path:
        return self.trained("lora", method={"name": "lora", "r": 2})

    @cached_property
    def ssb(self) -> Path:
        return self.trained("ssb", method="ssb")

    @cached_property
    def full(self) -> Path:
        return self.trained("full", method="full", learning_rate=1e-3)

    def trained(self, name: str, **changes: Any) -> Path:
        out = self.home / "runs" / name
        self.in_a_fork(lambda: train.run(make(tiny.recipe(self.home, **{"epochs": 1, "output": str(out), **changes}))))
        return out

    @cached_property
    def model(self) -> Path:
        tiny.recipe(self.home)
        return self.home / "model"

    def recipe(self, name: str, out: Path, **changes: Any) -> Path:
        """The file of a recipe whose run is `out`."""
        values = tiny.recipe(self.home, **changes, output=str(out))
        path = self.home / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def in_a_fork(self, action: Callable[[], Any]) -> None:
        """Done elsewhere, so that no thread of a computation is left in this process."""
        ended = forked(action, self.home)
        if ended.code:
            raise RuntimeError(f"the section's own work failed: {ended.said[-2000:]}")


def subspace(*words: object) -> Callable[[], None]:
    """A command, to be run in a fork."""
    return lambda: app([str(word) for word in words])


def emptied(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def held(place: Path, but: tuple[str, ...] = TOLD) -> dict[str, str]:
    """All files below a folder; of those that tell of time and place only that they are there."""
    return {
        str(path.relative_to(place)): "" if path.name in but else hashlib.sha256(_content(path)).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def _content(path: Path) -> bytes:
    """A file's bytes, but for what tells of time: the date in a page, the order of lines of work done side by side.

    Of safetensors with the entries of the header in order, which their library draws at random.
    """
    held = path.read_bytes()
    if path.name == "layers.jsonl":
        return b"".join(sorted(held.splitlines(keepends=True)))
    if path.suffix == ".html":
        return DATE.sub(b"", held)
    end = 8 + int.from_bytes(held[:8], "little")
    if path.suffix == ".safetensors" and end < len(held):
        with suppress(ValueError):
            return json.dumps(json.loads(held[8:end]), sort_keys=True).encode() + held[end:]
    return held


def aside(name: str) -> bool:
    """Whether a path is that of something unfinished."""
    return any(is_aside(Path(part)) for part in Path(name).parts)
