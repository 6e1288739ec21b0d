"""The two ways in which a command can end without a result, each told in one sentence."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class BadInput(ValueError):
    """What was given cannot be used; the command line ends with exit code 2."""


class RunFailed(RuntimeError):
    """The input was fine, the run was not (the loss became NaN, the disk is full); exit code 1."""


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
    close = difflib.get_close_matches(given, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that no space is left; safetensors and torch say so in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "PytorchStreamWriter failed writing" in str(error):
            return True
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return False
