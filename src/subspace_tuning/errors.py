"""The two ways in which a command can end without a result, each told in one sentence."""

from __future__ import annotations

import difflib
import errno
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class BadInput(ValueError):
    """What was given cannot be used; the command line ends with exit code 2."""


class RunFailed(RuntimeError):
    """The input was fine, the run was not (the loss became NaN, the disk is full); exit code 1."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to end by a signal; exit code 128 + its number."""

    def __init__(self, number: int, said: str = "nothing is half-written; run it again"):
        self.code = 128 + number
        super().__init__(f"ended by {signal.Signals(number).name}: {said}")


def interrupt(number: int, frame: object) -> None:
    """A handler of signals that lets everything be cleaned up on the way out."""
    raise Interrupted(number)


@contextmanager
def as_bad_input(kinds: tuple[type[Exception], ...] = (ValueError,)) -> Iterator[None]:
    """Errors of these kinds are the user's to mend: raise them as ``BadInput``."""
    try:
        yield
    except BadInput:
        raise
    except kinds as error:
        raise BadInput(str(error)) from error


def nearest(given: str, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` for a misspelt name, or nothing."""
    close = difflib.get_close_matches(given, list(known), n=3)
    close.sort(key=lambda name: sorted(name) != sorted(given))  # letters in another order come first
    return f"did you mean {close[0]!r}? " if close else ""


def few(names: Iterable[str], shown: int = 4) -> str:
    """The first of them, and how many more there are."""
    found = list(names)
    return ", ".join(found[:shown]) + (f" and {len(found) - shown} more" if len(found) > shown else "")


def shown(value: Any) -> str:
    """A value in an error: never longer than a line."""
    try:
        return short(repr(value))
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"


def short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:76]} ..."


_NOT_OURS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "there is no permission",
    errno.EPERM: "there is no permission",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "a file is where a folder should be",
}
_NO_SPACE = ("No space left on device", "PytorchStreamWriter failed writing", "os error 28")
_NO_MEMORY = (
    *("could not create a primitive", "bad_alloc", "bad allocation", "out of memory", "can't allocate memory"),
    *("failed to map segment from shared object", "can't start new thread"),
)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that no space is left; safetensors and torch say so in words only."""
    return any(
        (isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT))
        or any(said in str(e) for said in _NO_SPACE)
        for e in chain(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory ran out; oneDNN and torch say so in words only."""
    return any(
        isinstance(e, MemoryError)
        or (isinstance(e, OSError) and e.errno == errno.ENOMEM)
        or any(said in str(e) for said in _NO_MEMORY)
        for e in chain(error)
    )


def told(error: BaseException, path: object = None) -> BadInput | RunFailed | None:
    """The one sentence for an error of disk or memory that a program cannot mend, or None for another error.

    path: what was being written; the error's own file name without it.
    """
    sentence = _of_disk(error, path)
    if sentence is None and is_out_of_memory(error):
        return RunFailed("memory ran out; what helps: other programs closed, fewer rows or layers at once, --streamed")
    return sentence


def _of_disk(error: BaseException, path: object) -> BadInput | RunFailed | None:
    if is_disk_full(error):
        named = path or next((e.filename for e in chain(error) if isinstance(e, OSError) and e.filename), "a file")
        return RunFailed(f"the disk is full: {named} could not be written; free some space and run it again")
    for e in chain(error):
        if not isinstance(e, OSError) or e.errno is None:
            continue
        named = path or e.filename or "a file"
        if e.errno in _NOT_OURS:
            where = f" ({e.filename})" if e.filename and str(e.filename) != str(named) else ""
            return BadInput(f"cannot write {named}: {_NOT_OURS[e.errno]}{where}; name another place, or mend that one")
        if e.errno == errno.EIO:
            return RunFailed(f"the disk failed ({e.strerror}): {named} could not be written; look after the disk")
    return None


@contextmanager
def writing(path: object) -> Iterator[None]:
    """What fails in here because ``path`` cannot be written ends in one sentence."""
    try:
        yield
    except (BadInput, RunFailed):
        raise
    except Exception as error:
        sentence = _of_disk(error, path)
        if sentence is None or not _is_about(error, path):
            raise
        raise sentence from error


def _is_about(error: Exception, path: object) -> bool:
    """Whether the file that an error names, if it names one, is the path, beside it, above it or below it."""
    from pathlib import Path

    if not isinstance(error, OSError) or not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    named, given = Path(os.fsdecode(error.filename)).absolute(), Path(os.fspath(path)).absolute()  # type: ignore[call-overload]
    return named.parent == given.parent or named in given.parents or given in (named, *named.parents)
