"""Text files: read in the encoding that is said, and parted into lines at line ends alone."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from subspace_tuning.errors import BadInput

UTF8 = "utf-8"
SAY_WHICH = "say which encoding it is in with encoding: in the recipe, or save it as UTF-8"  # of files of rows
_MARKS = {  # byte order marks, the longer ones first: that of UTF-16 begins like that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def known_encoding(name: str) -> str:
    """The name, if Python reads and writes texts in it. Raises BadInput otherwise."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise BadInput(f"encoding: {name!r} is not known; expected one such as utf-8, utf-16, cp1252 or latin-1") from (
            None
        )
    return name


def lines_in(path: Path, encoding: str = UTF8, remedy: str = "save it as UTF-8") -> Iterator[str]:
    """The lines of ``read_text`` with their ends, read as they are asked for; raises as it does, once there."""
    is_first = True
    try:
        with path.open(encoding=known_encoding(encoding), newline="") as file:
            for line in file:
                if "\0" in line:
                    raise UnicodeError
                yield line.removeprefix("\ufeff") if is_first else line
                is_first = False
    except (OSError, UnicodeError):
        read_text(path, encoding, remedy)  # which says what is wrong
        raise


def read_text(path: Path, encoding: str = UTF8, remedy: str = "save it as UTF-8") -> str:
    """What a file says, without a byte order mark, line ends as they are.

    Raises BadInput where it cannot be opened, or holds bytes that are none of the encoding; ``remedy`` says what to do.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    try:
        text = content.decode(known_encoding(encoding)).removeprefix("\ufeff")
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = content.count(b"\n", 0, at) + 1
        marked = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
        guess = f"it begins as {marked} does" if marked else "often it is cp1252 (Western Windows) or latin-1"
        raise BadInput(
            f"{path} is not {encoding}: line {line} has the byte 0x{content[at]:02x}, which means nothing there; "
            f"{remedy} ({guess})"
        ) from error
    if "\0" in text:
        raise BadInput(
            f"{path} has NUL characters when it is read as {encoding}, as files in utf-16-le or utf-16-be have; "
            f"{remedy}"
        )
    return text


def lines_of(text: str) -> list[str]:
    r"""The lines between line ends (\n, \r\n, \r), blank ones too.

    ``str.splitlines`` also splits at form feeds, U+0085, U+2028 and others, which stand within texts.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
