"""Which process a file belongs to, and whether that process still lives."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Owner:
    """A process.

    began: since when, by a clock that nobody sets; a process of the same number that began at another time is another
    one, and so is one that began before the machine was started anew.
    """

    machine: str
    pid: int
    began: str

    @classmethod
    def me(cls) -> Owner:
        return cls(_machine(), os.getpid(), _began(os.getpid()))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        parts = text.rsplit(" ", 2)
        try:
            return cls(parts[0], int(parts[1]), parts[2])
        except (ValueError, IndexError):  # cut off by a kill
            return None

    def __str__(self) -> str:
        return f"{self.machine} {self.pid} {self.began}"

    @property
    def mark(self) -> str:
        """As part of a file's name."""
        return f"{_short(self.machine)}-{self.pid}-{_short(self.began)}"

    @property
    def is_here(self) -> bool:
        """Whether it can be looked up from here."""
        return self.machine == _machine()

    def runs(self) -> bool:
        """Whether it lives, for one that is here."""
        return _lives(self.pid) and _began(self.pid) == self.began


def left_behind(mark: str) -> bool | None:
    """Whether the owner of a mark is gone; None where it cannot be looked up from here."""
    machine, pid, began = mark.split("-")
    if machine != _short(_machine()):
        return None
    return not _lives(int(pid)) or _short(_began(int(pid))) != began


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@lru_cache(maxsize=1)
def _machine() -> str:
    """A name for all processes that can look each other up: containers on one host cannot."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}-{space.stat().st_ino}" if space.exists() else socket.gethostname()


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _began(pid: int) -> str:
    """Ticks since the machine was started, and which start that was; the time of day where there is no /proc."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{ticks}"
    except (OSError, IndexError):
        pass
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""
