"""Names of tasks: kinds, and tasks of a kind that are known by name.

A kind may live outside the package: register it with the decorator, or publish it under the entry-point group
``subspace_tuning.tasks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.tasks.task import Task

KINDS: dict[str, type[Task]] = {}
KNOWN: dict[str, Task] = {}
GROUP = "subspace_tuning.tasks"
_Class = TypeVar("_Class", bound=type[Task])


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: make a kind of task known under a name, as ``task:`` of recipes says it."""

    def add(cls: _Class) -> _Class:
        held = KINDS.get(name)
        if name in KNOWN or (held is not None and (held.__module__, held.__qualname__) != _place(cls)):
            raise ValueError(f"the name {name!r} is taken; register {cls.__module__}.{cls.__qualname__} otherwise")
        cls.kind = name
        KINDS[name] = cls
        return cls

    return add


def know(task: Task) -> Task:
    """Make a task known by its name, its columns and labels being its own."""
    if task.name in KINDS or task.name in KNOWN:
        raise ValueError(f"the name {task.name!r} is taken; call the task otherwise")
    KNOWN[task.name] = task
    return task


def kinds() -> dict[str, type[Task]]:
    """Every kind by its name, those of installed packages too."""
    for name in _published():
        _load(name)
    return dict(sorted(KINDS.items()))


def kind_of(name: str) -> type[Task]:
    """The kind with that name, or of the task known by it. Raises BadInput for a name that none has."""
    if name in KNOWN:
        return type(KNOWN[name])
    if name not in KINDS:
        _load(name)
    if name not in KINDS:
        names = (*KNOWN, *KINDS, *_published())
        raise BadInput(f"unknown task {name!r}: {nearest(name, names)}known are {', '.join(names)}")
    return KINDS[name]


def task_of(name: str, values: Mapping[str, Any] | None = None) -> Task:
    """The task known by a name, or one of a kind with these fields (``Task.keys``). Raises BadInput."""
    kind = kind_of(name)
    types = _types(kind)
    given = {key: value for key, value in (values or {}).items() if value is not None}
    for key in given:
        if key not in types:
            raise BadInput(f"task: {name} has no {key!r}: {nearest(key, types)}it has {', '.join(types)}")
    values = {key: _checked(key, value, types[key]) for key, value in given.items()}
    if name not in KNOWN:
        return kind(**values)
    own = [key for key in values if key not in kind.free]
    if own:
        raise BadInput(f"the task {name!r} has its own {' and '.join(own)}; leave them out, or take task: {kind.kind}")
    return replace(KNOWN[name], **values)


def keys() -> dict[str, Any]:
    """What recipes can say of tasks of any kind -> its type."""
    return {key: kept for kind in kinds().values() for key, kept in _types(kind).items()}


@cache
def _types(kind: type[Task]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)  # with their bounds
    return {key: hints[key] for key in kind.keys()}  # noqa: SIM118


def _checked(key: str, value: Any, wanted: Any) -> Any:
    try:
        return TypeAdapter(wanted).validate_python(value)
    except ValidationError as error:
        said = dict.fromkeys(found["msg"] for found in error.errors())  # one for each type that it could be of
        raise BadInput(f"the recipe's {key} is {value!r}: {', or '.join(said)}") from error


@cache
def _published() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(name: str) -> None:
    """Import the kind that an installed package publishes under a name."""
    point = _published().get(name)
    if point is None or name in KINDS:
        return
    try:
        cls = point.load()
    except (ImportError, AttributeError) as error:
        raise BadInput(f"cannot load the task {name!r} from {point.value}: {error}") from error
    if name not in KINDS:
        register(name)(cls)


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__
