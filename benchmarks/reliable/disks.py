"""Disks on which nothing can be written: full ones, read-only ones, another user's folders; and short memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from disks import mounted, read_only
from subspace_tuning.errors import BadInput, RunFailed, told

from .forks import Ended, forked
from .kills import Writer, writers
from .training import LORA
from .workplace import Asked, Row, Workplace, aside, held, subspace

SHARES = (0.0, 0.25, 0.5, 0.75, 0.95)  # of what a command writes, free on the disk
NOBODY = 65534
ENOUGH = 64 << 20


def disks(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Each writer on a full disk (with some room, never enough), a read-only one, and in another user's folder."""
    home.home.chmod(0o755)
    every = writers(home)
    train = home.recipe("on-disk", home.home / "disk" / "run", epochs=2, save_every=2, method=LORA)
    for name, writer in {"train": Writer(lambda place: subspace("train", train)), **every}.items():
        with mounted(home.home / "disk", f"size={ENOUGH},mode=777") as place:
            if place is None:
                yield Row(name, "not tried: this process may not mount")
                continue
            yield _tried(name, writer, place)


def _tried(name: str, writer: Writer, place: Path) -> Row:
    row = Row(name, f"full at {len(SHARES)} points, read-only, another user's folder")
    writer.old(place)
    old = held(place)
    calm = _act(writer, place)
    new, size = held(place), sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    goes_on = name.startswith("the store")  # which does without a disk
    for share in SHARES:
        _empty(place)
        writer.old(place)
        _resize(place, max(4096 * (2 + len(list(place.rglob("*")))), int(share * size)))
        ended = _act(writer, place)
        _resize(place, ENOUGH)
        _judge(row, ended, place, old, writer, "the disk is full", goes_on)
        after = _act(writer, place)
        if after.code or set(held(place)) != set(new):
            row.fault(f"does not go on once there is room: {after.trace or after.said[-200:]}")
    _empty(place)
    writer.old(place)
    _judge(row, _act(writer, place, NOBODY), place, old, writer, "no permission", goes_on)
    read_only(place)
    _judge(row, _act(writer, place), place, old, writer, "read-only", goes_on)
    row.figures = f"{size / 1e3:.0f} kB, {calm.changes} changes"
    return row


def _act(writer: Writer, place: Path, user: int | None = None) -> Ended:
    action = in_a_sentence(writer.act(place))

    def act() -> None:
        if user is not None:
            place.chmod(0o755)
            os.setgid(user), os.setuid(user)
        action()

    return forked(act, place)


def in_a_sentence(action: Callable[[], Any]) -> Callable[[], Any]:
    """As the command line ends, for what is no command."""

    def act() -> None:
        try:
            action()
        except Exception as error:
            sentence = error if isinstance(error, BadInput | RunFailed) else told(error)
            if sentence is None:
                raise
            print(f"error: {sentence}")
            raise SystemExit(2 if isinstance(sentence, BadInput) else 1) from None

    return act


def _judge(row: Row, ended: Ended, place: Path, old: dict[str, str], writer: Writer, said: str, goes_on: bool) -> None:
    found = {path: mark for path, mark in held(place).items() if path.split("/")[0] not in (writer.work, "run")}
    left = [path for path in held(place) if aside(path)]
    if goes_on and ended.code == 0 and not left:
        row.came["went on without it"] += 1
    elif ended.code == 0 and not left:
        row.came["there was room"] += 1
    elif ended.code not in (1, 2) or ended.trace or not ended.sentence:
        row.fault(f"{said}: ended by {ended.code}: {ended.trace or ended.said[-200:]}")
    elif left or found != old:
        row.fault(f"{said}: left {left or sorted(set(found) ^ set(old))[:3]}")
    else:
        row.came["a sentence, the old state"] += 1


def _empty(place: Path) -> None:
    subprocess.run(["find", str(place), "-mindepth", "1", "-delete"], check=True)


def _resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def memory(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Training with less and less memory to be had: success, or a sentence that names what helps; with enough of it
    the same command goes on. Libraries written in Rust abort where their allocator gets nothing.
    """
    row = Row("`subspace train` with little memory", f"{asked.kills} limits from 0 to 400 MB above the start")
    for number in range(asked.kills):
        recipe = home.recipe("memory", home.home / f"memory-{number}", epochs=1, method="full", batch_size=96)
        ended = forked(_limited(subspace("train", recipe), int(4e8 * number / asked.kills)), home.home)
        aborted = ended.code == -signal.SIGABRT and "memory allocation of" in ended.said
        if ended.is_slow or (not aborted and (ended.trace or ended.code not in (0, 1, 2))):
            row.fault(f"ended by {ended.code}: {ended.trace or ended.said[-200:]}")
        elif (after := forked(subspace("train", recipe), home.home)).code:
            row.fault(f"does not go on once there is memory: {after.trace or after.said[-200:]}")
        else:
            how = "trained" if ended.code == 0 else "aborted by a library, then trained" if aborted else ""
            row.came[how or "a sentence, then trained"] += 1
            row.figures = row.figures or ended.sentence[:190]
    yield row


def _limited(action: Callable[[], Any], more: int) -> Callable[[], Any]:
    def act() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        action()

    return act
