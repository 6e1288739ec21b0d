"""Many steps and many rows: adapters that come and go, 64 of them in one batch, a table of a million rows."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from models import batch, bert
from subspace_tuning import METHODS, SubspaceConfig
from subspace_tuning.method.registry import build
from subspace_tuning.tuner.layer import SubspaceLayer

from .forks import forked
from .workplace import Asked, Row, Workplace

WARM = 500  # steps after which memory is looked at first
ALLOWED = 0.01


def families() -> list[str]:
    """Methods that stand on single weights and may be added to one model side by side."""
    return sorted(name for name, method in METHODS.items() if method.sits_on in ("weight", "output", "bias"))


def small(name: str) -> SubspaceConfig:
    fields = {f: 2 for f in ("r", "init_r") if f in getattr(METHODS[name], "__dataclass_fields__", {})}
    return SubspaceConfig(method=build(name, fields), init_weights=False)


def _told(home: Workplace, action: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """What an action returns, from a process of its own."""

    def act() -> None:
        torch.set_num_threads(1)
        print("\n" + json.dumps(action()))

    ended = forked(act, home.home, limit=limit)
    if ended.code:
        raise RuntimeError(ended.said[-2000:])
    return json.loads(ended.said.splitlines()[-1])


def adapters(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Adapters of all families added, switched, used and deleted; then 64 of them at once."""
    found = _told(home, lambda: _come_and_go(asked.steps, asked.dice("adapters")), 3600)
    grown = found["after"] / found["before"] - 1
    row = Row(
        "adapters of all families added, switched and deleted",
        f"{asked.steps} steps, {len(found['families'])} families",
    )
    row.figures = (
        f"{found['before'] / 1e6:.1f} MB after {WARM} steps, {grown:+.2%} at the end, {found['objects']:+d} tensors"
    )
    if (abs(grown) > ALLOWED and grown > 0) or found["objects"] > 0 or not found["same"]:
        row.fault(f"memory {grown:+.2%}, {found['objects']:+d} tensors, the same outputs: {found['same']}")
    else:
        row.came["memory within 1 %, the same outputs"] += 1
    yield row
    found = _told(home, lambda: _side_by_side(64), 3600)
    row = Row(
        "adapters of mixed families on one model", f"64, of {found['families']} families, a row each in one batch"
    )
    row.figures = f"{found['apart']:.1e} from each alone at most, where outputs are {found['size']:.2g} large"
    if found["apart"] > 1e-4 * found["size"]:
        row.fault(f"apart by {found['apart']:.1e}")
    else:
        row.came["each row as by its adapter alone"] += 1
    yield row


def _come_and_go(steps: int, dice: random.Random) -> dict[str, Any]:
    """Memory after the first steps and after all, each time with the same one adapter in place."""
    torch.manual_seed(0)
    names, inputs = families(), batch()
    model = get_peft_model(bert(num_hidden_layers=1), small("lora"), adapter_name="stays").eval()
    with torch.no_grad():
        first = model(**inputs).logits
    names = [name for name in names if _fits(model, name)]
    held: list[str] = []
    before = objects = 0
    for step in range(steps):
        act = dice.random()
        if len(held) < 4 and (act < 0.4 or not held):
            name = f"a{step}"
            model.add_adapter(name, small(dice.choice(names)))
            held.append(name)
        elif act < 0.7:
            model.set_adapter(dice.choice([*held, "stays"]))
        else:
            model.delete_adapter(held.pop(dice.randrange(len(held))))
        if step % 50 == 0:
            with torch.no_grad():
                model(**inputs)
        if step in (WARM, steps - 1):
            for name in held:
                model.delete_adapter(name)
            held = []
            if step == WARM:
                before, objects = _memory(), _tensors()
    model.set_adapter("stays")
    with torch.no_grad():
        same = torch.equal(model(**inputs).logits, first)
    after = _memory()
    return {"before": before, "after": after, "objects": _tensors() - objects, "same": same, "families": names}


def _fits(model: Any, name: str) -> bool:
    """Whether a family can stand beside others on this model; those that keep to a whole block or need data cannot."""
    try:
        model.add_adapter("tried", small(name))
    except ValueError:
        return False
    model.delete_adapter("tried")
    return True


def _memory() -> int:
    """Bytes of this process that no file backs, once what is free went back to the system."""
    import ctypes

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10


def _tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor | SubspaceLayer) for thing in gc.get_objects())


def _side_by_side(count: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = get_peft_model(bert(num_hidden_layers=1), small("lora"), adapter_name="a0").eval()
    names = [name for name in families() if _fits(model, name)]
    for i in range(1, count):
        model.add_adapter(f"a{i}", small(names[i % len(names)]))
    rows, inputs = [f"a{i}" for i in range(count)], batch(size=count)
    with torch.no_grad():
        got = model(**inputs, adapter_names=rows).logits
        apart = 0.0
        for i, name in enumerate(rows):
            model.set_adapter(name)
            alone = model(**{k: v[i : i + 1] for k, v in inputs.items()}).logits[0]
            apart = max(apart, (got[i] - alone).abs().max().item())
    return {"apart": apart, "size": got.abs().max().item(), "families": len(names)}


def rows(home: Workplace, asked: Asked) -> Iterator[Row]:
    """What benchmarks/many_rows.py does, with a tenth of the rows and with all: memory does not grow with them."""
    import many_rows

    row = Row("a table of texts with labels, read and encoded", f"{asked.rows // 10:,} and {asked.rows:,} rows")
    found = {}
    for count in (asked.rows // 10, asked.rows):
        path = home.home / "many.csv"
        many_rows.written(path, count)
        words = [sys.executable, many_rows.__file__, "--model", str(home.model), "--child", str(path), "mapped"]
        said = subprocess.run(words, capture_output=True, text=True, check=True, env=_with_cache(home)).stdout
        found[count] = json.loads(said.splitlines()[-1]) | {"file": path.stat().st_size}
        path.unlink()
    few, many = found.values()
    row.figures = (
        f"{few['peak'] / 1e6:.0f} MB and {many['peak'] / 1e6:.0f} MB at most, of a file of {many['file'] / 1e6:.0f} MB"
    )
    row.figures += f"; {many['tokens']:,} tokens"
    if many["peak"] > max(2 * few["peak"], 128e6):
        row.fault(row.figures)
    else:
        row.came["in bounded memory"] += 1
    yield row


def _with_cache(home: Workplace) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(home.home), "HF_DATASETS_CACHE": tempfile.mkdtemp(dir=home.home)}
