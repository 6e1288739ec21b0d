"""Who works on what: at most one living process on each thing, on whatever machine.

A claim is a file with its owner's name. An owner lives as long as its process does, which is looked up on the same
machine. One elsewhere touches a file of its own every ``BEAT`` seconds: it lives once that was seen to happen, and is
dead when it was not for ``PATIENCE``. Only changes count, so that nobody's clock has to agree with another's.
"""

from __future__ import annotations

import _thread
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from subspace_tuning.errors import BadInput, RunFailed, writing
from subspace_tuning.files.owner import Owner

BEAT, PATIENCE = 20.0, 300.0  # seconds
CLAIM = ".claim"  # a folder in one that is held
_LOCK = "lock"

_held: set[Path] = set()  # by threads of this process
_guard = threading.Lock()


class Held(BadInput):
    """Another process is at it."""


class Claims:
    """The claims of one process in a folder that all of them share."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.me = Owner.me()
        self._seen: dict[str, tuple[int | None, float, bool]] = {}  # heartbeat, when it came, whether it moved
        self.beat()

    def beat(self) -> None:
        """Tell other machines that this process lives."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _heart(self.me)).touch()

    def take(self, name: str) -> bool:
        """Claim it, unless a living process has it, or one of which that is not known yet."""
        path = self.folder / name
        while True:
            before = _number(self.folder / _LOCK)
            with writing(self.folder), FileLock(self.folder / _LOCK).acquire(poll_interval=0.002):
                if before is not None and before != _number(self.folder / _LOCK):
                    self.beat()  # the folder was removed, and made again, while we waited
                    continue
                if self.lives(name) is not False:
                    return False
                path.write_text(str(self.me), encoding="utf-8")
                return True

    def lives(self, name: str) -> bool | None:
        """Whether the owner of a claim does; None where it is not known yet, False where there is none."""
        path = self.folder / name
        owner = Owner.parse(path.read_text(encoding="utf-8")) if path.is_file() else None
        if owner is None or owner == self.me:
            return False
        return owner.runs() if owner.is_here else self._beats(owner)

    def release(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def leave(self) -> None:
        (self.folder / _heart(self.me)).unlink(missing_ok=True)

    def _beats(self, owner: Owner) -> bool | None:
        heart, now = _heart(owner), time.monotonic()
        try:
            last = (self.folder / heart).stat().st_mtime_ns
        except FileNotFoundError:
            return False
        known = self._seen.get(heart)
        if known is None or known[0] != last:
            known = self._seen[heart] = (last, now, known is not None)
        _, since, moved = known
        if now - since > PATIENCE:
            return False
        return True if moved else None


def is_left(folder: Path) -> bool:
    """Whether a claim is there of whose owner nobody here can say that it lives: dead, or gone before it was clear."""
    try:
        text = (folder / CLAIM / "owner").read_text(encoding="utf-8")
    except OSError:
        return (folder / CLAIM).is_dir()
    owner = Owner.parse(text)
    return owner is None or (owner.is_here and not owner.runs())


@contextmanager
def held(folder: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Nobody else is at a folder within this. Raises Held where another process or thread is.

    An owner on another machine is waited for, until it is seen to live or not to.
    """
    place = folder.absolute()
    refused = Held(f"another process is at {folder}; wait for it, or name another place")
    with _guard:
        if place in _held:
            raise refused
        _held.add(place)
    try:
        claims = Claims(folder / CLAIM)
        told = False
        while not claims.take("owner"):
            if claims.lives("owner"):
                raise refused
            if not told:
                say(f"{folder} belongs to a process on another machine; waiting to see whether it lives")
                told = True
            time.sleep(min(1.0, PATIENCE / 10))
        done, beating = threading.Event(), threading.Lock()
        with suppress(RuntimeError):  # no thread is to be had: on this machine the process itself is looked up
            in_background(lambda: _beat(claims, done, beating))
        try:
            yield
        finally:
            with beating:
                done.set()
            with suppress(OSError), FileLock(claims.folder / _LOCK):
                shutil.rmtree(claims.folder, ignore_errors=True)
    finally:
        with _guard:
            _held.discard(place)


def in_background(work: Callable[[], None]) -> None:
    """In a thread that nobody waits for. Raises RuntimeError where there is none to be had."""
    _thread.start_new_thread(work, ())  # Thread.start() waits for ever for one that memory was too short for


def _beat(claims: Claims, done: threading.Event, beating: threading.Lock) -> None:
    while not done.wait(BEAT):
        with beating, suppress(OSError, BadInput, RunFailed):
            if not done.is_set():
                claims.beat()


def _heart(owner: Owner) -> str:
    return f"{owner.mark}.alive"


def _number(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
