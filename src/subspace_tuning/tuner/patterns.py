"""Regular expressions that a file brings: tried on names only where they are bound to end soon.

An expression of nested repeats can take longer than anybody waits, and Python's engine cannot be stopped. So the ways
in which one may match are counted first: the engine tries no more of them, whatever the name. Then all names of a model
are tried against the clock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

from subspace_tuning.errors import BadInput

try:
    from re import _constants as code  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as code
    import sre_parse as parser

NAME = 128  # characters of a module's name, at most
WAYS = 3 * 10**7  # to match that are few enough to be tried one by one
LONGEST = 1 << 17  # characters of an expression
SECONDS = 2.0  # for all names of a model

# what PEFT makes of the expressions in a config before it tries them
WHOLE, ENDING, LAYERS, KEPT = "{}", r"(.*\.)?({})$", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", r"(^|.*\.){}($|\..*)"


class Patterns:
    """The regular expressions of a config. Raises BadInput for what is none, or one that may take for ever."""

    def __init__(self, config: Any):
        self._all: list[re.Pattern[str]] = []
        for name in ("target_modules", "exclude_modules"):
            given = getattr(config, name, None)
            self._add([given] if isinstance(given, str) and given != "all-linear" else [], WHOLE, name)
        layers = getattr(config, "layers_pattern", None) or []
        self._add([layers] if isinstance(layers, str) else layers, LAYERS, "layers_pattern")
        self._add(getattr(config, "modules_to_save", None) or [], KEPT, "modules_to_save")
        for name in ("rank_pattern", "alpha_pattern", "method_pattern"):
            self._add(getattr(config, name, None) or [], ENDING, name)

    def _add(self, given: Iterable[str], form: str, where: str) -> None:
        self._all += [_compiled(form.format(one), one, where) for one in given]

    def try_on(self, names: Iterable[str]) -> None:
        """Raise BadInput where trying all of them on these names takes too long."""
        end = time.monotonic() + SECONDS
        for name in names if self._all else ():
            if len(name) > NAME:
                raise BadInput(f"a module's name of {len(name)} characters, {_short(name)}, is too long for patterns")
            for pattern in self._all:
                pattern.match(name)
                if time.monotonic() > end:
                    raise BadInput(
                        f"regular expressions such as {_short(pattern.pattern)} take too long to be tried on the names "
                        "of all modules; name the modules one by one"
                    )


def _compiled(whole: str, given: str, where: str) -> re.Pattern[str]:
    if len(given) > LONGEST:
        raise BadInput(f"{where} holds a regular expression of {len(given)} characters; shorten it")
    try:
        ways = _ways(parser.parse(whole))
        compiled = re.compile(whole)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(f"{where} holds {_short(given)}, which is no regular expression: {error}") from error
    if ways > WAYS:
        raise BadInput(
            f"{where} holds the regular expression {_short(given)}, which can match in too many ways to be tried; "
            "leave out repeats within repeats, or name the modules one by one"
        )
    return compiled


def _ways(parsed: Any) -> int:
    """How many ways of matching there are at one place of a name, at most; all that is huge is WAYS + 1."""
    ways = 1
    for op, given in parsed:
        ways *= _ways_of(op, given)
        if ways > WAYS:
            return WAYS + 1
    return ways


def _ways_of(op: Any, given: Any) -> int:
    if op is code.BRANCH:
        return sum(_ways(branch) for branch in given[1])
    if op is code.SUBPATTERN:
        return _ways(given[-1])
    if op in (code.ASSERT, code.ASSERT_NOT):
        return _ways(given[1])
    if op is code.GROUPREF_EXISTS:
        return _ways(given[1]) + (_ways(given[2]) if given[2] else 1)
    if op in (code.MAX_REPEAT, code.MIN_REPEAT, getattr(code, "POSSESSIVE_REPEAT", None)):
        least, most, body = given
        return _repeats(min(int(least), NAME), min(int(most), NAME), _ways(body))
    if op is getattr(code, "ATOMIC_GROUP", None):
        return _ways(given)
    return 1


def _repeats(least: int, most: int, each: int) -> int:
    """Of a body with so many ways, repeated."""
    if each == 1:
        return most - least + 1
    total = 0
    for count in range(least, most + 1):
        total += each**count
        if total > WAYS:
            return WAYS + 1
    return total


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
