"""Processes forked from this one, which has imported everything: killed at a moment, watched, and what came of them.

A command begins at once in such a process, so that a moment drawn at random falls on its own work and not on five
seconds of imports. Nothing may have been computed here before that keeps threads.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLED = -signal.SIGKILL
DEVICES = ("/dev/null", "/dev/tty", "/dev/fd/", "/dev/shm/sem.", "/dev/shm/torch_", "/proc/")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    code: as `subprocess` has it; changes: of the file system below the watched folder, as Python makes them; strayed:
    what it wrote elsewhere, or ran; peak: bytes of memory above those of this process.
    """

    code: int
    said: str
    seconds: float
    changes: int
    strayed: str
    peak: int
    is_slow: bool = False

    @property
    def sentence(self) -> str:
        return next(
            (line for line in self.said.splitlines() if line.startswith("error: ") and not line.endswith(": None")), ""
        )

    @property
    def trace(self) -> str:
        """The last line of a traceback and where it was, or nothing."""
        lines = self.said.splitlines()
        if not any(line.startswith("Traceback") for line in lines):
            return ""
        ours = [line.strip() for line in lines if 'File "' in line and "subspace_tuning" in line]
        place = ours[-1].rpartition("/")[2].replace('"', "") if ours else "?"
        return f"{place}: {lines[-1][:160]}"


@dataclass(frozen=True)
class Blow:
    """A signal after some seconds, or before the n-th change of the file system."""

    seconds: float | None = None
    change: int | None = None
    number: int = signal.SIGKILL


def forked(
    action: Callable[[], Any], below: Path, blow: Blow | None = None, limit: float = 120.0, elsewhere: bool = False
) -> Ended:
    """What comes of an action in a process of its own.

    below: the folder whose changes are counted; limit: seconds of the processor, and twenty times as many of the clock,
    after which it is killed as slow; elsewhere: note what it writes outside of that folder, or runs.
    """
    return begun(action, below, blow, limit, elsewhere)()


def begun(
    action: Callable[[], Any], below: Path, blow: Blow | None = None, limit: float = 120.0, elsewhere: bool = False
) -> Callable[[], Ended]:
    """The same without waiting for it: to be asked for what came of it."""
    blow = blow or Blow()
    shared, said = mmap.mmap(-1, 4096), tempfile.TemporaryFile()  # noqa: SIM115  read below
    began, before = time.perf_counter(), _resident()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
        _child(action, below, blow, shared, said.fileno(), elsewhere)

    def ended() -> Ended:
        is_slow, usage, status = _await(pid, began, blow, 20 * limit)
        code = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        with said:
            said.seek(0)
            words = said.read().decode(errors="replace")
        changes, strayed = int.from_bytes(shared[:8], "little"), shared[8:].rstrip(b"\0").decode(errors="replace")
        peak = max(0, (usage.ru_maxrss << 10) - before)
        return Ended(code, words, seconds, changes, strayed, peak, is_slow or code == -signal.SIGXCPU)

    return ended


def _await(pid: int, began: float, blow: Blow, limit: float) -> tuple[bool, Any, int]:
    """Until it has ended; the blow falls meanwhile."""
    is_slow, struck, pause = False, blow.seconds is None, 0.0005
    while True:
        gone, status, usage = os.wait4(pid, os.WNOHANG)
        if gone:
            return is_slow, usage, status
        now = time.perf_counter() - began
        if not struck and blow.seconds is not None and now >= blow.seconds:
            os.kill(pid, blow.number)
            struck = True
        if now > limit and not is_slow:
            os.kill(pid, signal.SIGKILL)
            is_slow = True
        time.sleep(pause)
        pause = min(pause * 1.2, 0.01 if struck else 0.002)


def _child(action: Callable[[], Any], below: Path, blow: Blow, shared: mmap.mmap, said: int, elsewhere: bool) -> None:
    code = 70
    try:
        os.dup2(said, 1), os.dup2(said, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115  of a test's, too
        sys.addaudithook(_Watch(below, blow, shared, elsewhere))
        action()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


class _Watch:
    """Counts the changes of the file system, strikes before one, and notes what goes astray."""

    def __init__(self, below: Path, blow: Blow, shared: mmap.mmap, elsewhere: bool):
        self.below, self.blow, self.shared, self.elsewhere = str(below), blow, shared, elsewhere
        self.count, self.allowed = 0, (str(below), os.path.join(tempfile.gettempdir(), "tmp"), *DEVICES)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITES):
            if isinstance(args[0], int):
                return
            path = _absolute(event, args)
            if path.startswith(self.below):
                self._changes()
            elif self.elsewhere and not path.startswith(self.allowed) and not path.endswith(".pyc"):
                self._note(f"{event} {path}")
        elif self.elsewhere and event in RUNS:
            self._note(f"{event} {args[0]}")

    def _changes(self) -> None:
        self.count += 1
        self.shared[:8] = self.count.to_bytes(8, "little")
        if self.count == self.blow.change:
            os.kill(os.getpid(), self.blow.number)

    def _note(self, text: str) -> None:
        if self.shared[8] == 0:
            data = text.encode()[:400]
            self.shared[8 : 8 + len(data)] = data


def _absolute(event: str, args: tuple[Any, ...]) -> str:
    """The path that an event is about, which may be relative to an open folder."""
    path, place = os.fsdecode(args[0]), {"os.mkdir": 2, "os.rename": 2, "os.remove": 1, "os.rmdir": 1}.get(event)
    folder = args[place] if place else -1
    return os.path.abspath(path if folder < 0 else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path))


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) << 10
