"""Names of methods: registering a class, building a method from its name and fields, and back.

A method may live outside the package: register it with the decorator, publish it under the entry-point group
``subspace_tuning.methods``, or name it ``package.module:Class``. What is read (``from_data``: configs, checkpoints, the
folders of runs) never imports code: a name that is not in memory ends in an error that says which import is missing.
``build`` and ``load`` import, and are called with what a person typed.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import reduce
from importlib.metadata import entry_points
from operator import or_
from typing import Any, TypeVar

from subspace_tuning.errors import nearest, short, shown
from subspace_tuning.method.composition import Composition
from subspace_tuning.method.declared import check
from subspace_tuning.method.method import Method

METHODS: dict[str, type[Method]] = {}
GROUP = "subspace_tuning.methods"
MEMBERS = 16  # of a composition, at most
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_Class = TypeVar("_Class", bound=type[Method])


class UnknownMethod(ValueError):
    """Raised for a name that no registered method has."""


class NotLoaded(UnknownMethod):
    """A method whose module has not been imported."""


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: make a method known under a name, in configs, recipes, checkpoints and on the command line.

    Raises ValueError where another class has the name.
    """

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


def lookup(name: str, source: Any = None) -> type[Method]:
    """The class with that name, among what is in memory: nothing is imported here.

    ``source`` is the module that a checkpoint or recipe says the class comes from.
    """
    if name in METHODS:
        return METHODS[name]
    path = _path(name)
    for cls in METHODS.values():
        if path_of(cls) == path:
            return cls
    if path is not None and (there := _in_memory(path)) is not None:
        return there if there.name else register(path)(there)
    module = path.partition(":")[0] if path is not None else source
    if not isinstance(module, str):
        known = ", ".join(sorted(METHODS))
        raise UnknownMethod(f"unknown method {shown(name)}: {nearest(name, METHODS)}known methods are {known}")
    if module in sys.modules:
        raise UnknownMethod(f"{short(module)} holds no method {shown(name)}; has it been renamed since?")
    raise NotLoaded(
        f"the method {shown(name)} is not loaded, and what is read never imports code: run `import {short(module)}` "
        "first (on the command line --import), if you trust that package"
    )


def load(data: Any) -> None:
    """Import the modules that a method's plain data names.

    For what a person typed or wrote in a recipe to train, and never for what a folder of results holds: importing a
    module runs it. Raises UnknownMethod where that fails, or the module holds no such method.
    """
    for part in data if isinstance(data, list | tuple) else [data]:
        name, source = (part.get("name"), part.get("import")) if isinstance(part, Mapping) else (part, None)
        for single in (word.strip() for word in name.split("|")) if isinstance(name, str) else ():
            if single in METHODS:
                continue
            path = _path(single)
            module = path.partition(":")[0] if path is not None else source
            if isinstance(module, str):
                _import(single, path, module)


def _import(name: str, path: str | None, module: str) -> None:
    try:
        found = importlib.import_module(module)
        cls = METHODS.get(name) if path is None else getattr(found, path.partition(":")[2])
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownMethod(f"cannot load the method {name!r} from {path or module}: {error}") from error
    if cls is None:
        raise UnknownMethod(f"{module} registers no method {name!r}; has it been renamed since?")
    if not _is_method(cls):
        raise UnknownMethod(f"{path} is not a method: expected a subclass of subspace_tuning.Method, got {cls!r}")
    if not cls.name:
        register(path or name)(cls)


def _path(name: str) -> str | None:
    """``package.module:Class`` that a name stands for: itself, or what an entry point says."""
    if _PATH.fullmatch(name):
        return name
    return {e.name: e.value for e in entry_points(group=GROUP)}.get(name)


def _in_memory(path: str) -> type[Method] | None:
    """The class, if its module is there and holds it; a module's own ``__getattr__`` could import, and is not asked."""
    module, _, attribute = path.partition(":")
    cls = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    is_own = module.partition(".")[0] == __name__.partition(".")[0]  # all of ours go by registered names
    return cls if _is_method(cls) and not is_own else None


def _is_method(cls: Any) -> bool:
    return issubclass(type(cls), type) and issubclass(cls, Method) and not inspect.isabstract(cls)


def build(name: str, values: Mapping[str, Any] | None = None) -> Method:
    """The method with that name and those fields; ``a|b`` builds a composition, each field going where it belongs.

    A name that calls for an import (``package.module:Class``, an entry point's) gets it: it is given here by hand.
    Raises UnknownMethod, a ValueError, for a name that there is not, and ValueError for fields that it does not have.
    """
    load(name)
    return _built(name, values or {})


def _built(name: str, values: Mapping[str, Any], source: Any = None) -> Method:
    parts = [part.strip() for part in name.split("|")]
    if len(parts) > MEMBERS:
        raise ValueError(f"a composition has at most {MEMBERS} members, got {len(parts)}")
    classes = [lookup(part, source) for part in parts]
    _reject_unknown(name, values, {f.name for cls in classes for f in fields(cls)})
    chosen = [{f.name: values[f.name] for f in fields(cls) if f.name in values} for cls in classes]
    made = [_filled(cls, own) for cls, own in zip(classes, chosen, strict=True)]
    return made[0] if len(made) == 1 else Composition(tuple(made))


def _filled(cls: type[Method], values: Mapping[str, Any]) -> Method:
    try:
        method = cls(**values)  # what a method says of its own fields comes first
    except TypeError:
        check(cls, values, cls.name)
        raise
    check(cls, values, cls.name)
    return method


def _reject_unknown(name: str, values: Mapping[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ValueError(
                f"the method {name!r} has no field {key!r}: {nearest(str(key), known)}its fields are: {listed}"
            )


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


def from_data(data: Any) -> Method:
    """A method from a method, a name, a mapping with ``name``, or a list of these (a composition). Imports nothing."""
    parts = data if isinstance(data, list | tuple) else [data]
    if not parts or (parts is data and not 2 <= len(parts) <= MEMBERS):
        raise ValueError(f"a composition is a list of 2 to {MEMBERS} methods, got {len(parts)}")
    made = [_from_part(part) for part in parts]
    return made[0] if len(made) == 1 else reduce(or_, made)


def _from_part(data: Any) -> Method:
    if isinstance(data, Method):
        return data
    if isinstance(data, str):
        return _built(data, {})
    if isinstance(data, Mapping) and isinstance(data.get("name"), str):
        values = {k: v for k, v in data.items() if k not in ("name", "import")}
        return _built(data["name"], values, data.get("import"))
    raise ValueError(f"a method is a name, a mapping with 'name', or a list of two or more of these; got {shown(data)}")
