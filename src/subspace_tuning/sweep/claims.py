"""Who works on which run: at most one living process each, on whatever machine.

A claim is a file with its owner's name. An owner lives as long as its process does, which is looked up on the same
machine; owners elsewhere touch a file of theirs every ``BEAT`` seconds and count as dead after ``PATIENCE``.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

BEAT, PATIENCE = 20.0, 300.0  # seconds


@dataclass(frozen=True)
class Owner:
    machine: str
    pid: int
    began: float  # a process with the same number that began at another time is another one

    @classmethod
    def me(cls) -> Owner:
        return cls(_machine(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        parts = text.rsplit(" ", 2)
        try:
            return cls(parts[0], int(parts[1]), float(parts[2]))
        except (ValueError, IndexError):  # cut off by a kill
            return None

    def __str__(self) -> str:
        return f"{self.machine} {self.pid} {self.began}"

    @property
    def file_name(self) -> str:
        return f"{self.machine}-{self.pid}.alive"

    def runs_here(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.began and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def _machine() -> str:
    """A name for all processes that can look each other up: containers on one host cannot."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}-{space.stat().st_ino}" if space.exists() else socket.gethostname()


class Claims:
    """The claims of one process in a folder that all of them share."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.me = Owner.me()
        self._lock = FileLock(folder / "lock")  # let go of by the system if its holder is killed
        self.beat()

    def beat(self) -> None:
        """Tell other machines that this process lives."""
        (self.folder / self.me.file_name).touch()

    def take(self, name: str) -> bool:
        """Claim a run, unless a living process has it."""
        path = self.folder / name
        with self._lock.acquire(poll_interval=0.002):
            owner = Owner.parse(path.read_text(encoding="utf-8")) if path.is_file() else None
            if owner is not None and owner != self.me and self._lives(owner):
                return False
            path.write_text(str(self.me), encoding="utf-8")
        return True

    def release(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def leave(self) -> None:
        (self.folder / self.me.file_name).unlink(missing_ok=True)

    def _lives(self, owner: Owner) -> bool:
        if owner.machine == self.me.machine:
            return owner.runs_here()
        self.beat()  # both times are then of the file system's clock
        try:
            theirs = (self.folder / owner.file_name).stat().st_mtime
        except FileNotFoundError:
            return False
        return (self.folder / self.me.file_name).stat().st_mtime - theirs < PATIENCE
