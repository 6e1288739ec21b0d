"""What a judgement is: plain data that says by which measure, on which rows; called with a model, it gives a verdict.

A kind of judgement is a frozen dataclass registered by name, as methods are; its fields are the keys of a recipe:
``{judge: multiple_choice, data: FOLDER, normalise: length}``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass
from torch import nn

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.judge.ready import judged
from subspace_tuning.judge.verdict import Verdict
from subspace_tuning.rows import Records, read, sampled
from subspace_tuning.rows.records import JUDGED, Record

Progress = Callable[[int, int], None]  # done, of so many (rows, or windows of long ones)
KIND = "judge"  # the key that names the kind
JUDGEMENTS: dict[str, type[Judgement]] = {}
STRICT = ConfigDict(extra="forbid")
T = TypeVar("T", bound=type)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Judgement(ABC):
    """name: what tables call it, where it is not the kind alone. samples: at most so many rows, the same every time."""

    name: str = ""
    samples: PositiveInt | None = None

    kind: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()  # whose versions decide a verdict, beside ours

    @property
    def is_told(self) -> bool:
        """Whether fields, rows and versions tell all that decides a verdict."""
        return True

    @abstractmethod
    def __call__(self, model: nn.Module, tokenizer: Any, *, progress: Progress | None = None) -> Verdict:
        """The model, with whatever adapters are active, judged; model and tokenizer are left as they were."""

    @property
    def label(self) -> str:
        return self.name or self.kind

    @property
    def told(self) -> tuple[str, ...]:
        """The metrics that its verdict will have, where they are known beforehand."""
        return ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OfRows(Judgement):
    """A judgement on rows.

    data: a file, a folder with a split to judge by, or a data set of the hub. subset: its configuration there.
    split: another split than test or validation.
    """

    data: str | None = None
    subset: str | None = None
    split: str | None = None

    def __call__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        records: Records | Sequence[Record] | None = None,
        progress: Progress | None = None,
    ) -> Verdict:
        """records: rows at hand, instead of those that ``data`` names."""
        rows = self.records(records)
        with judged(model):
            return self.judge(model, tokenizer, rows, progress or _silent)

    def records(self, given: Records | Sequence[Record] | None = None) -> Records:
        """The rows to judge, sampled."""
        if given is None:
            if self.data is None:
                raise BadInput(f"{self.label} needs data: a file, a folder, or a data set of the hub")
            given = read(self.data, self.split or JUDGED, self.subset)
        return sampled(given if isinstance(given, Records) else Records.of(given), self.samples)

    @abstractmethod
    def judge(self, model: Any, tokenizer: Any, records: Records, progress: Progress) -> Verdict:
        """The verdict, with the model ready to be judged."""

    @property
    def label(self) -> str:
        return self.name or " ".join(filter(None, (self.kind, self.subset or (self.data and Path(self.data).stem))))


def _silent(done: int, of: int) -> None:
    pass


def register(name: str) -> Callable[[T], T]:
    """Make a kind known by a name, under which recipes and verdicts speak of it."""

    def named(cls: T) -> T:
        if name in JUDGEMENTS:
            raise ValueError(f"there is a judgement {name!r} already: {JUDGEMENTS[name].__qualname__}")
        kind: Any = cls  # a type variable bound to pydantic's dataclasses is beyond type checkers
        kind.kind = name
        JUDGEMENTS[name] = kind
        return cls

    return named


def from_data(data: Any) -> Judgement:
    """A judgement from a judgement, or from a mapping with ``judge``. Raises BadInput that names what is wrong."""
    if isinstance(data, Judgement):
        return data
    if not isinstance(data, Mapping) or not isinstance(data.get(KIND), str):
        raise BadInput(
            f"a judgement is a mapping with {KIND!r}, such as {{judge: bits_per_byte, data: F}}; got {data!r}"
        )
    name = data[KIND]
    if name not in JUDGEMENTS:
        raise BadInput(f"unknown judgement {name!r}: {nearest(name, JUDGEMENTS)}known are {', '.join(JUDGEMENTS)}")
    cls = JUDGEMENTS[name]
    known = [f.name for f in fields(cls)]
    values = {key: value for key, value in data.items() if key != KIND}
    for key in values:
        if key not in known:
            hint = nearest(str(key), known)
            raise BadInput(f"the judgement {name!r} has no field {key!r}: {hint}its fields are {', '.join(known)}")
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        where = ".".join(str(part) for part in first["loc"][:1])
        if first["type"] == "missing":
            raise BadInput(f"the judgement {name!r} needs the field {where!r}") from error
        raise BadInput(f"the judgement {name!r}: {where} is {first['input']!r}: {said}" if where else said) from error


def several(data: Any) -> dict[str, Judgement]:
    """Judgements by their labels, from a list of plain data. Raises BadInput where two would be called the same."""
    found: dict[str, Judgement] = {}
    for one in data if isinstance(data, list | tuple) else [data]:
        judgement = from_data(one)
        if judgement.label in found:
            raise BadInput(f"two judgements are called {judgement.label!r}; give one of them a name: ...")
        found[judgement.label] = judgement
    return found


def to_data(judgement: Judgement) -> dict[str, Any]:
    """Plain data that ``from_data`` reads back, every field with its value."""
    values = {f.name: getattr(judgement, f.name) for f in fields(judgement)}
    return {KIND: judgement.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
