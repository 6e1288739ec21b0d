"""Files with a word a line (CoNLL's): columns parted by blanks, sentences by a blank line."""

from __future__ import annotations

import re
from pathlib import Path

from subspace_tuning.errors import BadInput
from subspace_tuning.files.table import Table
from subspace_tuning.files.text import SAY_WHICH, UTF8, lines_of, read_text

SUFFIXES = (".conll", ".bio", ".iob", ".txt")
_DOCUMENT = "-DOCSTART-"
_BLANKS = re.compile("[ \t]+")  # other spaces, such as U+00A0, stand within words


def read_conll(path: Path, words: str, tags: str, encoding: str = UTF8) -> Table:
    """A row a sentence, with a list of words (the first column) and one of tags (the last).

    Lines that begin with ``-DOCSTART-`` part documents and are no words. Raises BadInput, with the line, for one that
    has another number of columns than the first.
    """
    name = str(path)
    held: dict[str, list[list[str]]] = {words: [], tags: []}
    lines: list[int] = []
    is_open, width = False, 0
    for number, line in enumerate(lines_of(read_text(path, encoding, SAY_WHICH)), 1):
        fields = _BLANKS.split(line.strip(" \t"))
        if not line.strip() or fields[0] == _DOCUMENT:
            is_open = False
            continue
        width = width or len(fields)
        if len(fields) != width or width < 2:
            raise BadInput(
                f"{name}, line {number}: found {len(fields)} column(s), expected {max(width, 2)}: a word first, "
                "its tag last"
            )
        if not is_open:
            lines.append(number)
            held[words].append([])
            held[tags].append([])
            is_open = True
        held[words][-1].append(fields[0])
        held[tags][-1].append(fields[-1])
    return Table(name, held, lines)
