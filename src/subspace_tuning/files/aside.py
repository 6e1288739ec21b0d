"""Files and folders that are never half-written: made aside, brought to the disk, then renamed.

What is aside is named for its owner: ``.NAME.OWNER-RANDOM.aside``. One whose owner is dead goes at the next write
beside it. A disk that is full, read-only or not ours to write ends in one sentence (``errors.told``).
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from subspace_tuning.errors import BadInput, writing
from subspace_tuning.files.owner import Owner, left_behind

ABANDONED = 24 * 3600.0  # seconds after which what a process elsewhere began has lost it
_ASIDE = re.compile(r"\..*\.(?P<mark>[0-9a-f]{8}-\d+-[0-9a-f]{8})-[0-9a-f]{8}\.aside")


def is_aside(path: Path) -> bool:
    """Whether that is what somebody is making, or was when he died, and nobody's yet."""
    return _ASIDE.fullmatch(path.name) is not None


def write(path: Path, content: str | bytes) -> None:
    """Write a file aside, then rename it."""
    with whole_file(path) as aside:
        aside.write_bytes(content if isinstance(content, bytes) else content.encode())


def free(out: str | Path) -> Path:
    """The folder to make. Raises BadInput where something is there already, or no folder can be made."""
    out = Path(out)
    with writing(out):
        try:
            out.lstat()
        except FileNotFoundError:
            _check_writable(out)
        else:
            if not out.is_dir() or any(out.iterdir()):
                raise BadInput(f"{out} exists already and is not an empty folder; name a new one")
    return out


def _check_writable(path: Path) -> None:
    """Raise before the work is done, not after it."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(above))


def folder(path: Path) -> Path:
    """The folder, made where it is missing."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write that takes its place only when all went well; one that was there before is replaced.

    Its folder is made where it is missing. Raises BadInput or RunFailed where it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _name(path)
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = aside.stat().st_mode  # as the umask has it
        try:
            _sweep_up(aside)
            yield aside
            _file_to_disk(aside, mode)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        _folder_to_disk(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes its place only when all went well; one that was there before is replaced.

    Raises BadInput or RunFailed where it cannot be written.
    """
    with writing(path):
        with folder_aside(path) as aside:
            yield aside
            bring_to_disk(aside)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            aside.rename(path)
        _folder_to_disk(path.parent)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """A folder beside a path to work in, gone at the end with what is still in it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _name(path)
    aside.mkdir()
    try:
        _sweep_up(aside)
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def bring_to_disk(path: Path) -> None:
    """All that is in a folder survives a loss of power; files get the mode that the umask gives, whoever wrote them."""
    mode = path.stat().st_mode & 0o666
    for top, _, names in os.walk(path, topdown=False):
        for file in (Path(top, name) for name in names):
            if not file.is_symlink():
                _file_to_disk(file, mode)
        _folder_to_disk(Path(top))


def _file_to_disk(path: Path, mode: int) -> None:
    if path.stat().st_mode & 0o777 != mode & 0o777:
        path.chmod(mode & 0o777)  # safetensors makes its files for their owner alone
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def _folder_to_disk(path: Path) -> None:
    """The names in a folder, where the system can do that."""
    with suppress(OSError):
        held = os.open(path, os.O_RDONLY)
        try:
            os.fsync(held)
        finally:
            os.close(held)


def _name(path: Path) -> Path:
    return path.with_name(f".{path.name[:48]}.{Owner.me().mark}-{secrets.token_hex(4)}.aside")


def _sweep_up(mine: Path) -> None:
    """Remove what dead processes have left aside in the same folder."""
    now = mine.stat().st_mtime  # by the file system's clock
    with suppress(OSError):  # not ours to remove, or gone
        for entry in os.scandir(mine.parent):
            if (found := _ASIDE.fullmatch(entry.name)) is None:
                continue
            gone = left_behind(found["mark"])
            if gone or (gone is None and now - entry.stat(follow_symlinks=False).st_mtime > ABANDONED):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
