"""A sweep as a YAML file: axes, what to leave out, and how learning rates are tuned."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.run.recipe import NONE, Seed, known_keys, read, texts_in, told, words

AXES = ("model", "task", "method", "seed", "output", "hold_out")  # fields of a run that the sweep itself decides
OWN = ("method", "learning_rates", "ranks", "tune")  # of an entry; what else it says are fields of a recipe
_STRICT = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class MethodEntry(BaseModel):
    """One contender: the method, the fields of a recipe that are its own, and its own values on two axes."""

    model_config = _STRICT

    method: Any
    learning_rates: list[PositiveFloat] | None = Field(default=None, min_length=1)
    ranks: list[PositiveInt] | None = Field(default=None, min_length=1)
    tune: dict[str, list[Any]] = {}  # fields of a recipe, each value tried with every learning rate
    fields: dict[str, Any] = {}  # of a recipe

    @classmethod
    def of(cls, given: Any) -> MethodEntry:
        """From a method as ``method:`` in a recipe takes it, or a mapping with ``method`` and fields of a recipe."""
        if not (isinstance(given, dict) and "method" in given):
            return cls(method=given)
        own = {key: given[key] for key in OWN if key in given}
        fields = {key: value for key, value in given.items() if key not in own}
        _check_fields("a method's", fields, allowed=(), also=OWN)
        try:
            entry = cls(**own, fields=fields)
        except ValidationError as error:
            raise ValueError(told(error, f"the method {_name(given['method'])}")) from error
        _check_fields("what is tuned,", entry.tune, allowed=())
        return entry

    def budget(self, rates: int) -> int:
        """How many candidates it has, where it has so many rates unless it lists its own."""
        return len(self.learning_rates or range(rates)) * prod(map(len, self.tune.values()))


class Exclusion(BaseModel):
    """Runs to leave out: those for which all that is said here is true."""

    model_config = _STRICT

    method: str | None = None  # as tables show it, with its rank or without
    task: str | None = None
    model: str | None = None
    r: PositiveInt | None = None
    seed: Seed | None = None


class Search(BaseModel):
    """Optuna: so many trials for each method, rank, task and model, the hopeless ones cut short by ASHA."""

    model_config = _STRICT

    trials: PositiveInt
    low: PositiveFloat = 0.1  # times the method's own learning rate
    high: PositiveFloat = 10.0
    evaluations: PositiveInt = 4  # a trial, between which it may be cut short


class Optuna(BaseModel):
    model_config = _STRICT

    optuna: Search


class Tuning(BaseModel):
    """How each contender finds its learning rate: with as many runs as any other, judged by held-out training rows."""

    model_config = _STRICT

    factors: list[PositiveFloat] | None = Field(default=None, min_length=1)  # times the method's own learning rate
    seeds: list[Seed] = Field(default=[17], min_length=1)
    search: Literal["grid"] | Optuna = "grid"
    fields: dict[str, Any] = {}  # of a recipe, for tuning runs alone, such as fewer rows to judge by

    @model_validator(mode="after")
    def _fits_together(self) -> Tuning:
        if self.search != "grid" and self.factors:
            raise ValueError("optuna chooses the learning rates itself; leave out factors, or take search: grid")
        if self.search != "grid" and len(self.seeds) > 1:
            raise ValueError(f"optuna judges a trial by one run, got the tuning seeds {self.seeds}; give one")
        return self


class SweepRecipe(BaseModel):
    """Which runs to make: every model x task x method x rank x learning rate x seed, less the exclusions."""

    model_config = _STRICT

    output: str
    base: dict[str, Any] = {}  # fields of every run's recipe
    models: list[str] | None = Field(default=None, min_length=1)
    tasks: list[str | dict[str, Any]] | None = Field(default=None, min_length=1)
    methods: list[Any] = Field(min_length=1)
    ranks: list[PositiveInt] | None = Field(default=None, min_length=1)  # for the methods that have a rank
    learning_rates: list[PositiveFloat] | None = Field(default=None, min_length=1)
    seeds: list[Seed] = Field(default=[0], min_length=1)
    exclude: list[Exclusion] = []
    tuning: Tuning | None = None
    retries: NonNegativeInt = 1
    gpus_per_run: PositiveFloat | None = None  # several, or a share of one: 0.5 for two runs on one

    @model_validator(mode="after")
    def _fits_together(self) -> SweepRecipe:
        gpus = self.gpus_per_run or 1
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_run is a whole number, or a share of one GPU below 1; got {gpus:g}")
        if gpus > 1 and self.tuning is not None and self.tuning.search != "grid":
            raise ValueError(
                "optuna cuts runs short from within, and one of several GPUs is several processes; "
                "take search: grid, or gpus_per_run: 1"
            )
        _check_fields("base's", self.base, allowed=("model", "task"))
        for task in self.task_fields:
            _check_fields("a task's", {k: v for k, v in task.items() if k != "task"}, allowed=())
        for given in self.methods:
            MethodEntry.of(given)  # raises for what is none
        for name in ("models", "ranks", "learning_rates", "seeds"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice: {values}")
        if self.tuning is not None:
            _check_fields("tuning's", self.tuning.fields, allowed=())
            self._tunes_fairly(self.tuning)
        elif any(entry.tune for entry in self.entries):
            raise ValueError("a method's tune lists what tuning chooses among, and the sweep tunes nothing; add tuning")
        return self

    def _tunes_fairly(self, tuning: Tuning) -> None:
        """Every method gets the same number of candidates."""
        both = sorted(set(tuning.seeds) & set(self.seeds))
        if both:
            raise ValueError(
                f"tuning.seeds and seeds share {both}: a run that chose the learning rate must not be judged by it; "
                f"give tuning seeds of its own"
            )
        if self.learning_rates:
            raise ValueError(
                "learning_rates is an axis of final runs, tuning chooses their rate; leave one of them out"
            )
        trained = [entry for entry in self.entries if entry.method != NONE]
        if tuning.search != "grid":
            lists = [_name(entry.method) for entry in trained if entry.learning_rates or entry.tune]
            if lists:
                raise ValueError(f"optuna searches every method's rate; leave out what {min(lists)} lists to try")
            return
        without = [_name(entry.method) for entry in trained if not entry.learning_rates]
        if tuning.factors is None and without:
            raise ValueError(f"tuning has no factors and {without[0]} no learning_rates of its own; give one of them")
        factors = len(tuning.factors or ())
        budgets = [(_name(entry.method), entry.budget(factors)) for entry in trained]
        if len({n for _, n in budgets}) > 1:
            told = ", ".join(f"{name} {n}" for name, n in budgets)
            raise ValueError(
                f"tuning budgets differ ({told}); give every method the same number of learning rates, "
                f"times the values of what else it tunes"
            )

    @property
    def entries(self) -> list[MethodEntry]:
        return [MethodEntry.of(given) for given in self.methods]

    @property
    def task_fields(self) -> list[dict[str, Any]]:
        """Each task as fields of a recipe."""
        if self.tasks is None:
            return [{"task": self.base["task"]} if "task" in self.base else {}]
        return [{"task": task} if isinstance(task, str) else task for task in self.tasks]

    def dump(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)


def _name(method: Any) -> str:
    return str(method.get("name", method)) if isinstance(method, dict) else str(method)


def _check_fields(whose: str, fields: dict[str, Any], allowed: tuple[str, ...], also: tuple[str, ...] = ()) -> None:
    """Raises ValueError for what is no field of a recipe, or one that the sweep decides; ``also``: known besides."""
    known = [*also, *(key for key in known_keys() if key not in AXES or key in allowed)]
    for key in fields:
        if key in AXES and key not in allowed:
            raise ValueError(f"{whose} {key} is not its own to set: the sweep decides it; leave it out")
        if key not in known:
            raise ValueError(
                f"{whose} {key!r} is no field of a recipe: {nearest(str(key), known)}known are {', '.join(known)}"
            )


def make(values: dict[str, Any]) -> SweepRecipe:
    """A sweep from plain data. Raises BadInput that names the key, what it was given and what was expected."""
    known = SweepRecipe.model_fields
    for key in values:
        if key not in known:
            of_runs = "fields of the runs go into base: " if key in known_keys() else ""
            hint = nearest(str(key), known) or of_runs
            raise BadInput(f"the sweep has an unknown key {key!r}: {hint}known keys are {', '.join(known)}")
    try:
        return SweepRecipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            key = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"the sweep lacks {key}, such as {_EXAMPLES.get(key, '...')}") from error
        raise BadInput(told(error, "the sweep")) from error


_EXAMPLES = {"output": "output: runs/my-sweep", "methods": "methods: [full, ssb, lora]"}


def read_sweep(path: Path) -> SweepRecipe:
    """The sweep of a YAML file."""
    return make(read(path, texts_in(SweepRecipe) | words() | {"models", "tasks"}))


__all__ = ["Exclusion", "MethodEntry", "Search", "SweepRecipe", "Tuning", "make", "read_sweep"]
