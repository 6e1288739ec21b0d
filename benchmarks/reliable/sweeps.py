"""Sweeps, killed again and again, and their workers: in the end all runs are those of an undisturbed sweep."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

import tiny
from subspace_tuning.sweep.pool import LocalPool
from subspace_tuning.sweep.recipe import read_sweep
from subspace_tuning.sweep.sweep import Sweep

from .forks import Blow, forked
from .workplace import SAME, TOLD, Asked, Row, Workplace, aside, held

SMALL = {"methods": ["ssb", "lora", "ia3"], "seeds": [0, 1, 2, 3]}
LARGE = {"methods": ["ssb", "lora", "ia3", "dora"], "seeds": list(range(10)), "models": ["minilm"]}
STEPS = {"max_steps": 2, "save_every": 1, "eval_samples": 16, "batch_size": 4}
LARGE_KILLS = 10


def sweep(home: Workplace, asked: Asked) -> Iterator[Row]:
    """12 runs on two workers: the sweep killed, then its workers one at a time."""
    calm = recipe_of(home, "calm", SMALL)
    undisturbed = forked(swept(calm), home.home, limit=600)
    for what, blow in (("a sweep of 12 runs, two at a time", _whole), ("its workers, one at a time", _worker)):
        broken, dice, kills = recipe_of(home, "broken", SMALL), asked.dice(what), 0
        row = Row(
            what, f"{asked.kills} kills; it goes on each time", figures=f"{undisturbed.seconds:.1f} s undisturbed"
        )
        while kills < asked.kills:
            if all(stage.missing == 0 for stage in Sweep(read_sweep(broken)).stages()):
                _compare(row, calm, broken)
                broken = recipe_of(home, "broken", SMALL)
            kills += blow(broken, dice, undisturbed.seconds, row)
        forked(swept(broken), home.home, limit=600)
        _compare(row, calm, broken)
        yield row


def minilm(home: Workplace, asked: Asked) -> Iterator[Row]:
    """40 runs of MiniLM by the command itself, killed ten times while it trains."""
    calm, broken = (recipe_of(home, name, LARGE, **STEPS) for name in ("calm", "broken"))
    row = Row("`subspace sweep` of 40 runs of MiniLM", f"{LARGE_KILLS} kills of one sweep, which goes on each time")
    began, dice = time.perf_counter(), asked.dice("minilm")
    _command(calm).wait()
    row.figures = f"{time.perf_counter() - began:.0f} s undisturbed"
    for _ in range(LARGE_KILLS):
        process = _command(broken)
        wanted = _finished(broken) + dice.randint(1, 40 // LARGE_KILLS)
        while process.poll() is None and _finished(broken) < wanted:
            time.sleep(0.05)
        time.sleep(dice.uniform(0, 1.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
    if code := _command(broken).wait():
        row.fault(f"ended by {code}")
    _compare(row, calm, broken)
    yield row


def _finished(recipe: Path) -> int:
    return len(list(recipe.with_suffix("").glob("final/*/result.json")))


def _command(recipe: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "subspace_tuning", "sweep", str(recipe), "--jobs", "1"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def recipe_of(home: Workplace, name: str, axes: dict[str, Any], **base: Any) -> Path:
    """A sweep's file and its folder beside it, emptied."""
    values = tiny.recipe(home.home, **{"epochs": 2, "save_every": 2, **base})
    kept = ("data", "labels", "learning_rate", "epochs", "batch_size", "save_every", *base)
    given = {"output": str(home.home / name), "tasks": ["classification"], "ranks": [2], "retries": 1000}
    given |= {"models": [str(home.model)], "base": {key: values[key] for key in kept}, **axes}
    path = home.home / f"{name}.yaml"
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    path.write_text(yaml.safe_dump(given))
    return path


def swept(recipe: Path, jobs: int = 2) -> Callable[[], Any]:
    """A sweep whose workers are forked from a process that has imported everything."""

    def act() -> None:
        given = read_sweep(recipe)
        summary = Sweep(given).run(lambda: LocalPool(Path(given.output), jobs, start="fork"))
        if not summary.is_complete:
            raise RuntimeError(f"incomplete: {summary.failed}")

    return act


def _whole(recipe: Path, dice: random.Random, seconds: float, row: Row) -> int:
    ended = forked(swept(recipe), recipe.parent, Blow(dice.uniform(0, seconds / 3)))
    if ended.trace:
        row.fault(ended.trace)
    return int(ended.code == -signal.SIGKILL)


def _worker(recipe: Path, dice: random.Random, seconds: float, row: Row) -> int:
    """Workers of one sweep killed until it ends; how many were."""
    killed, seed = recipe.with_suffix(".killed"), dice.random()
    killed.write_text("")

    def strike() -> None:
        moments = random.Random(seed)
        while True:
            time.sleep(moments.uniform(0, seconds / 4))
            with suppress(psutil.Error, IndexError):
                moments.choice(psutil.Process().children()).kill()
                with killed.open("a") as file:
                    file.write("x")

    def act() -> None:
        threading.Thread(target=strike, daemon=True).start()
        swept(recipe)()

    ended = forked(act, recipe.parent, limit=600)
    if ended.code:
        row.fault(f"ended by {ended.code}: {ended.trace or ended.said[-200:]}")
    return len(killed.read_text())


def _compare(row: Row, calm: Path, broken: Path) -> None:
    """The runs of one sweep beside those of another, file by file."""
    one, other = (
        {k: v for k, v in held(path.with_suffix(""), (*TOLD, "error.txt")).items() if k.startswith("final/")}
        for path in (calm, broken)
    )
    names = {path.split("/")[1] for path in one}
    for name in sorted(names):
        mine, theirs = ({k: v for k, v in of.items() if k.split("/")[1] == name and _counts(k)} for of in (one, other))
        if mine == theirs:
            row.came[f"runs {SAME}"] += 1
        else:
            row.fault(f"{name}: {sorted(set(mine.items()) ^ set(theirs.items()))[:2]}")
    if left := [path for path in other if aside(path)]:
        row.came["left aside, for the next write there"] += len(left)


def _counts(path: str) -> bool:
    return not aside(path) and not path.endswith(("log.txt", "error.txt"))
