"""Files of delimited fields (csv, tsv): their columns, read record by record; every field is a text."""

from __future__ import annotations

import csv as _csv
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from subspace_tuning.errors import BadInput, shown
from subspace_tuning.files.stored import Columns, columns_of
from subspace_tuning.files.text import SAY_WHICH, lines_in

Record = tuple[int, list[str]]  # the number of the line it begins at, and its fields
Read = Callable[[], Iterator[Record]]
Found = tuple[Columns, Sequence[int]]  # and the line of each row


def csv(path: Path, encoding: str) -> Found:
    return _columns(str(path), _reader(path, encoding, ","))


def tsv(path: Path, encoding: str) -> Found:
    """Some writers quote fields, others (GLUE's) never do: the file itself says which, or is refused.

    A file whose names of columns are quoted is quoted. Otherwise a quotation mark that opens a field is a part of the
    text where the lines come out even without quoting and would not with it, and a quotation where it is the other
    way round, or where only quoting leaves no field empty. Where both would do, fields that double their quotation
    marks tell of quoting.
    """
    as_plain, as_quoted = _reader(path, encoding, "\t", _csv.QUOTE_NONE), _reader(path, encoding, "\t")
    return _columns(str(path), as_quoted if _is_quoted(str(path), as_plain, as_quoted) else as_plain)


def _is_quoted(name: str, as_plain: Read, as_quoted: Read) -> bool:
    plain = _look(as_plain())
    if not plain.opens or plain.is_headed:
        return plain.is_headed
    try:
        quoted = _look(as_quoted())
    except BadInput:
        return False
    if not plain.is_even or (quoted.is_even and plain.has_gaps and not quoted.has_gaps):
        return True
    if not quoted.is_even or quoted.records < plain.records:
        return False
    if plain.single:
        line, field = plain.single
        raise BadInput(
            f"{name}, line {line}: the field {shown(field)} could be quoted, or a text with quotation marks; "
            f"quote the names of the columns too, or save the file as .csv or .jsonl"
        )
    return True


class _Look(NamedTuple):
    """What records look like."""

    records: int
    is_even: bool  # all have as many fields
    has_gaps: bool  # a field is empty
    opens: bool  # a quotation mark opens a field
    is_headed: bool  # and does so in the first record
    single: tuple[int, str] | None  # the first such field that doubles no quotation mark


def _look(records: Iterator[Record]) -> _Look:
    count, widths, gaps, opens, headed, single = 0, set(), False, False, False, None
    for count, (line, fields) in enumerate(records, 1):
        widths.add(len(fields))
        gaps = gaps or not all(fields)
        for field in fields:
            if field.startswith('"'):
                opens, headed = True, headed or count == 1
                single = single or (None if '""' in field[1:-1] else (line, field))
    return _Look(count, len(widths) <= 1, gaps, opens, headed, single)


def _reader(path: Path, encoding: str, delimiter: str, quoting: int = _csv.QUOTE_MINIMAL) -> Read:
    """Reads the records of a file from its beginning, without blank lines at its end."""

    def read() -> Iterator[Record]:
        _csv.field_size_limit(max(_csv.field_size_limit(), path.stat().st_size))  # texts may be longer than 128 KB
        lines = lines_in(path, encoding, SAY_WHICH)
        reader = _csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
        line, blank = 1, []
        try:
            for fields in reader:
                record, line = (line, fields), reader.line_num + 1
                blank.append(record)
                if fields:
                    yield from blank
                    blank = []
        except _csv.Error as error:
            raise BadInput(
                f"{path}, line {line}: {error}; a field with {_called(path)}, a quotation mark or a line end in it "
                f'stands in quotation marks, and its own are doubled: "a ""good"" film"'
            ) from error

    return read


def _columns(name: str, read: Read) -> Found:
    """The first record names the columns. Raises BadInput where another one has more or fewer fields."""
    _, header = next(read(), (1, None))
    if header is None:
        raise BadInput(f"the data file {name} is empty: it has no rows and no columns")
    if not header:
        raise BadInput(f"{name}, line 1 is blank, expected the names of the columns")
    lines = array("q")

    def rows() -> Iterator[dict[str, str | None]]:
        del lines[:]
        for line, fields in islice(read(), 1, None):
            if len(fields) != len(header):
                found = f"{len(fields)} field(s)" if fields else "nothing"
                raise BadInput(
                    f"{name}, line {line}: found {found}, expected {len(header)} fields ({', '.join(header)}); a text "
                    f"with {_called(Path(name))} or a line end in it stands in quotation marks"
                )
            lines.append(line)
            yield dict(zip(header, (field or None for field in fields), strict=True))

    return columns_of(rows, once(header, name)), lines


def once(names: Sequence[str], where: str) -> Sequence[str]:
    """The names of columns, none of which stands there twice."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise BadInput(f"{where} has two columns {twice[0]!r}; give each column a name of its own")
    return names


def _called(path: Path) -> str:
    return "a comma" if path.suffix == ".csv" else "a tab"
