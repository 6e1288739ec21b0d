"""Names of modules as one expression, where they are many that differ by the numbers of their layers."""

from __future__ import annotations

import re
from collections.abc import Collection

LONG = 16


def as_pattern(names: Collection[str], every: Collection[str]) -> str | None:
    """An expression for ``target_modules`` that means the same of the modules of a model as these names.

    None where there are few names, or where the numbers make a difference.
    """
    if len(names) <= LONG and not any(name in every for name in names):
        return None
    meant = {name for name in every if name in names or name.endswith(tuple(f".{short}" for short in names))}
    folded = dict.fromkeys(re.sub(r"(?<=[._])\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in names)
    found = rf"(.*\.)?({'|'.join(folded)})"
    return found if meant == {name for name in every if re.fullmatch(found, name)} else None
