"""Disks on which nothing can be written: real ones where the tests may mount, else pretended."""

import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(path: Path, options: str):
    """A file system in memory at a path; None where this process may not mount."""
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True)
    try:
        yield path if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(path)], check=True)


def read_only(path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)


def refusing(monkeypatch, folder: Path, code: int) -> None:
    """From now on nothing can be made or written below the folder; the error is that of a real disk."""
    folder = str(folder)

    def guarded(real, *places):
        def call(*args, **kwargs):
            for place in places:
                if place < len(args) and str(args[place]).startswith(folder):
                    raise OSError(code, os.strerror(code), str(args[place]))
            return real(*args, **kwargs)

        return call

    real_open = os.open

    def opened(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(folder):
            raise OSError(code, os.strerror(code), str(path))
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "mkdir", guarded(os.mkdir, 0))
    monkeypatch.setattr(os, "rename", guarded(os.rename, 0, 1))
    monkeypatch.setattr(os, "replace", guarded(os.replace, 0, 1))


CODES = {"full": errno.ENOSPC, "read-only": errno.EROFS, "no permission": errno.EACCES}
