"""Whether plain data, as a file holds it, has the type that a field of a dataclass declares."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from subspace_tuning.errors import shown

WHOLE = 1 << 63  # whole numbers are below this, as tensors hold them
LARGEST = 3.4e38  # and others below this, as single precision does; what is no number is below nothing


def check(owner: type, values: Mapping[str, Any], what: str) -> None:
    """Raise ValueError for the first value that is not of its field's type; numbers are finite."""
    try:
        hints = get_type_hints(owner)
    except NameError:  # names that only a type checker sees
        return
    for f in fields(owner):
        if f.name in values and not is_a(values[f.name], hints.get(f.name, Any)):
            raise ValueError(
                f"{what}: {f.name} is {shown(values[f.name])}, expected {_told(hints[f.name])}; mend that field"
            )


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value of JSON's or YAML's is one of a type: int is taken for float, a list for a set or a tuple."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(is_a(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin in (list, set, tuple, frozenset) or hint in (list, set, tuple, frozenset):
        kind = inner[0] if inner else Any
        return isinstance(value, list | set | tuple | frozenset) and all(is_a(one, kind) for one in value)
    if origin is dict or hint is dict:
        key, held = inner or (Any, Any)
        return isinstance(value, dict) and all(is_a(k, key) and is_a(v, held) for k, v in value.items())
    return _is_plain(value, hint)


def _is_plain(value: Any, hint: Any) -> bool:
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        is_number = isinstance(value, int | float if hint is float else int) and not isinstance(value, bool)
        return is_number and (abs(value) < WHOLE if isinstance(value, int) else abs(value) < LARGEST)
    if isinstance(hint, type) and issubclass(hint, Enum) and issubclass(hint, str):
        return isinstance(value, str)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _told(hint: Any) -> str:
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
    return words.get(hint) or str(hint).replace("typing.", "").replace("NoneType", "None")
