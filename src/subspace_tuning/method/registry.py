"""Names of methods: registering a class, building a method from its name and fields, and back.

A method may live outside the package: register it with the decorator, publish it under the entry-point group
``subspace_tuning.methods``, or name it ``package.module:Class`` in a config or recipe. Reading a checkpoint never
imports code: an unknown name there ends in an error that says which import is missing.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any, TypeVar

from subspace_tuning.method.composition import Composition
from subspace_tuning.method.method import Method

METHODS: dict[str, type[Method]] = {}
GROUP = "subspace_tuning.methods"
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_Class = TypeVar("_Class", bound=type[Method])


class UnknownMethod(ValueError):
    """Raised for a name that no registered method has."""


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: make a method known under a name, in configs, recipes, checkpoints and on the command line."""

    def add(cls: _Class) -> _Class:
        known = METHODS.get(name)
        if known is not None and path_of(known) != path_of(cls):
            raise ValueError(
                f"the method name {name!r} is taken by {path_of(known)}; register {path_of(cls)} otherwise"
            )
        cls.name = name
        METHODS[name] = cls
        return cls

    return add


def path_of(cls: type[Method]) -> str:
    """``package.module:Class``, the name under which a class can be found without registering it."""
    return f"{cls.__module__}:{cls.__qualname__}"


def lookup(name: str, *, may_import: bool = True, source: str | None = None) -> type[Method]:
    """The class with that name. With ``may_import=False`` (checkpoints) only classes that are already there count.

    ``source`` is the module that a checkpoint or recipe says the class comes from.
    """
    if name in METHODS:
        return METHODS[name]
    found = {e.name: e.value for e in entry_points(group=GROUP)}.get(name)
    if found is None and _PATH.fullmatch(name):
        found = name
    if found is None and source is None:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownMethod(f"unknown method {name!r}: {hint}known methods are {', '.join(sorted(METHODS))}")
    for cls in METHODS.values():
        if path_of(cls) == found:
            return cls
    module = source if found is None else found.split(":")[0]
    if not may_import and module not in sys.modules:
        raise UnknownMethod(
            f"the checkpoint uses the method {name!r}, which is not loaded, and checkpoints never import code: "
            f"run `import {module}` first, if you trust that package"
        )
    if found is not None:
        return _import(name, found)
    return _registered_by(module, name)


def _registered_by(module: str | None, name: str) -> type[Method]:
    try:
        importlib.import_module(str(module))
    except ImportError as error:
        raise UnknownMethod(f"cannot load the method {name!r} from {module}: {error}") from error
    if name not in METHODS:
        raise UnknownMethod(f"{module} registers no method {name!r}; has it been renamed since?")
    return METHODS[name]


def _import(name: str, path: str) -> type[Method]:
    module, _, attribute = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownMethod(f"cannot load the method {name!r} from {path}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise UnknownMethod(f"{path} is not a method: expected a subclass of subspace_tuning.Method, got {cls!r}")
    return cls if cls.name else register(path)(cls)


def build(
    name: str, values: Mapping[str, Any] | None = None, *, may_import: bool = True, source: str | None = None
) -> Method:
    """The method with that name and those fields; ``a|b`` builds a composition, each field going where it belongs."""
    values = dict(values or {})
    if "|" in name:
        classes = [lookup(part.strip(), may_import=may_import) for part in name.split("|")]
        _reject_unknown(name, values, {f.name for cls in classes for f in fields(cls)})
        chosen = ({f.name: values[f.name] for f in fields(cls) if f.name in values} for cls in classes)
        return Composition(tuple(cls(**v) for cls, v in zip(classes, chosen, strict=True)))
    cls = lookup(name, may_import=may_import, source=source)
    _reject_unknown(name, values, {f.name for f in fields(cls)})
    return cls(**values)


def _reject_unknown(name: str, values: Mapping[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            listed = ", ".join(sorted(known)) or "none"
            raise ValueError(f"the method {name!r} has no field {key!r}: {hint}its fields are: {listed}")


def to_data(method: Method) -> dict[str, Any] | list[dict[str, Any]]:
    """Plain data that ``from_data`` reads back: a mapping, or a list of them for a composition."""
    if isinstance(method, Composition):
        return [_data_of(f) for f in method.members]
    return _data_of(method)


def _data_of(method: Method) -> dict[str, Any]:
    """Name and fields; of a class from elsewhere also the module that registers it."""
    module = type(method).__module__
    elsewhere = module.split(".")[0] not in (__name__.split(".")[0], "__main__")
    name = method.name or path_of(type(method))
    data = {"name": name, "import": module} if elsewhere else {"name": name}
    return data | {f.name: getattr(method, f.name) for f in fields(method)}


def from_data(data: Any, *, may_import: bool = True) -> Method:
    """A method from a method, a name, a mapping with ``name``, or a list of these (a composition)."""
    if isinstance(data, Method):
        return data
    if isinstance(data, str):
        return build(data, may_import=may_import)
    if isinstance(data, Mapping) and isinstance(data.get("name"), str):
        values = {k: v for k, v in data.items() if k not in ("name", "import")}
        return build(data["name"], values, may_import=may_import, source=data.get("import"))
    if isinstance(data, list | tuple) and len(data) >= 2:
        parts = [from_data(part, may_import=may_import) for part in data]
        method = parts[0]
        for part in parts[1:]:
            method = method | part
        return method
    raise ValueError(f"a method is a name, a mapping with 'name', or a list of two or more of these; got {data!r}")
