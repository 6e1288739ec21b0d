"""From a sweep's recipe to its runs: cells (model x task x method x rank), each with learning rates and seeds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files import assets
from subspace_tuning.method import Composition, Method
from subspace_tuning.method.registry import from_data, load, to_data
from subspace_tuning.run import recipe as recipes
from subspace_tuning.run.folder import name_of
from subspace_tuning.run.recipe import NONE, PLAIN, PLAIN_LEARNING_RATES, Recipe
from subspace_tuning.sweep.labels import rank, without_rank
from subspace_tuning.sweep.recipe import Exclusion, MethodEntry, SweepRecipe
from subspace_tuning.version import VERSION

FINAL, TUNING = "final", "tuning"
RATE = "learning_rate"


@dataclass(frozen=True)
class Trial:
    """A run as one trial of an Optuna study."""

    journal: str  # the file that holds the study
    study: str
    number: int


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its resolved recipe, with the folder that is its own."""

    recipe: Recipe
    kind: str  # final | tuning
    trial: Trial | None = None

    @classmethod
    def of(cls, recipe: Recipe, kind: str, folder: Path, trial: Trial | None = None) -> Run:
        where = folder / kind / f"{name_of(recipe)}-{identity(recipe)}"
        return cls(recipe.model_copy(update={"output": str(where)}), kind, trial)

    @property
    def folder(self) -> Path:
        return Path(str(self.recipe.output))

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_finished(self) -> bool:
        return (self.folder / "result.json").is_file()


def identity(recipe: Recipe) -> str:
    """The hash of a resolved recipe and of the versions that matter: two runs with the same one come to the same."""
    return _hash([recipe.digest(), _versions()])


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Of what computes the result; builds of one version for other devices (2.9.0+cpu) count as the same."""
    libraries = {name: version(name).partition("+")[0] for name in ("torch", "transformers", "peft")}
    return {"subspace-tuning": VERSION, **libraries}


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


Candidate = tuple[tuple[str, Any], ...]  # fields of a recipe with values to try, the learning rate first


@dataclass(frozen=True, eq=False)
class Cell:
    """One contender in one place: all of a recipe but the seed and what is tuned, mostly the learning rate."""

    values: dict[str, Any]  # fields of a recipe
    candidates: tuple[Candidate, ...] = ()  # what to try; none: the recipe's own learning rate

    def recipe(self, seed: int, candidate: Candidate = (), *, hold_out: bool = False, **more: Any) -> Recipe:
        recipe = recipes.make({**self.values, "seed": seed, "hold_out": hold_out, **dict(candidate), **more})
        if recipe.bf16 == "auto":
            raise BadInput(
                "bf16: auto would let the machines of a sweep compute unlike each other; set bf16: true or false"
            )
        return recipe.resolved()

    @cached_property
    def some(self) -> Recipe:
        """A recipe of this cell, whatever its seed."""
        return self.recipe(0)

    @cached_property
    def label(self) -> str:
        return self.some.method_label

    @cached_property
    def task(self) -> str:
        """With the name of its data, as tables show a task that they have several times."""
        return f"{self.some.task} {self.some.data_name}".rstrip()

    @property
    def takes_steps(self) -> bool:
        """Whether there is a learning rate to tune: the base as it is has none."""
        return self.some.method != NONE

    @property
    def own_rate(self) -> float:
        """The learning rate that the recipe gives, else the method's."""
        given = self.values.get("learning_rate")
        if given is not None:
            return float(given)
        plain = self.some.method if self.some.is_plain else None
        return PLAIN_LEARNING_RATES[plain] if plain else self.some.method_object().learning_rate

    def leaves_out(self, excluded: Exclusion, seed: int | None = None) -> bool:
        """Whether an exclusion holds here; one that names a seed holds for that seed alone."""
        mine = {"model": self.some.model, "r": rank(self.label), "seed": seed}
        said = excluded.model_dump(exclude_none=True)
        names = {"method": (self.label, without_rank(self.label)), "task": (self.task, self.some.task)}
        named = all(said.pop(key, own[0]) in own for key, own in names.items())
        return named and all(mine[key] == v for key, v in said.items())

    def __str__(self) -> str:
        return f"{self.label} on {self.task} with {Path(self.some.model).name}"


class Plan:
    """The cells of a sweep, and which runs each has. Raises BadInput for a sweep that contradicts itself."""

    def __init__(self, sweep: SweepRecipe):
        self.sweep = sweep
        self.folder = Path(sweep.output)
        every = list(_cells(sweep))
        for excluded in sweep.exclude:
            if not any(cell.leaves_out(excluded, excluded.seed) for cell in every):
                raise BadInput(
                    f"exclude: {excluded.model_dump(exclude_none=True)} matches no run; correct or remove it"
                )
        self.cells = [cell for cell in every if not any(cell.leaves_out(e) for e in sweep.exclude)]
        self._runs: dict[tuple[Any, ...], list[Run]] = {}
        self._keys: dict[Cell, str] = {}
        self._refuse_twins()

    def _refuse_twins(self) -> None:
        named = Counter((cell.some.model, cell.task, cell.label) for cell in self.cells)
        (model, task, label), times = named.most_common(1)[0] if named else (("", "", ""), 0)
        if times > 1:
            raise BadInput(
                f"{times} different entries would be called {label} on {task} with {model} in every table; "
                f"remove one, or give it a sweep of its own"
            )

    def tuning_runs(self, cell: Cell) -> list[Run]:
        """A run for each candidate and tuning seed, judged by rows held out of training."""
        seeds = self.sweep.tuning.seeds if self.sweep.tuning else []
        return self._made(cell, TUNING, tuple(product(cell.candidates, seeds)))

    def final_runs(self, cell: Cell, candidates: tuple[Candidate, ...]) -> list[Run]:
        """A run for each seed and candidate; with none as the recipe says."""
        seeds = [s for s in self.sweep.seeds if not any(cell.leaves_out(e, s) for e in self.sweep.exclude)]
        return self._made(cell, FINAL, tuple(product(candidates or ((),), seeds)))

    def key(self, cell: Cell) -> str:
        """What a cell and the way in which it is tuned are known by."""
        if cell not in self._keys:
            tuning = self.sweep.tuning
            how = None if tuning is None else tuning.model_dump(mode="json")
            self._keys[cell] = _hash([identity(cell.some), cell.candidates, how])
        return self._keys[cell]

    def _made(self, cell: Cell, kind: str, wanted: tuple[tuple[Candidate, int], ...]) -> list[Run]:
        """Runs are asked for often, and a recipe takes its time to be checked: each is made once."""
        if (cell, kind, wanted) not in self._runs:
            more = self.sweep.tuning.fields if kind == TUNING and self.sweep.tuning else {}
            recipes = [cell.recipe(seed, values, hold_out=kind == TUNING, **more) for values, seed in wanted]
            self._runs[cell, kind, wanted] = [Run.of(recipe, kind, self.folder) for recipe in recipes]
        return self._runs[cell, kind, wanted]


def _cells(sweep: SweepRecipe) -> Iterator[Cell]:
    """Cells of one model and task follow each other, so that workers have both at hand."""
    models = sweep.models or [sweep.base.get("model", assets.DEFAULT)]
    contenders = [(entry, method) for entry in sweep.entries for method in _ranked(entry, sweep)]
    for model, task, (entry, method) in product(models, sweep.task_fields, contenders):
        cell = Cell({**sweep.base, **task, **entry.fields, "model": model, "method": method})
        if entry.method == NONE:  # takes no step
            yield cell
            continue
        rates = entry.learning_rates or sweep.learning_rates
        factors = sweep.tuning.factors if sweep.tuning and not entry.learning_rates else None
        if factors:
            rates = [factor * cell.own_rate for factor in factors]
        yield cell if rates is None else Cell(cell.values, tuple(_candidates(rates, entry.tune)))


def _candidates(rates: list[float], tune: dict[str, list[Any]]) -> Iterator[Candidate]:
    """Every rate with every value of the other fields to tune."""
    for rate, *others in product((float(f"{rate:.6g}") for rate in rates), *tune.values()):
        yield (RATE, rate), *zip(tune, others, strict=True)


def _ranked(entry: MethodEntry, sweep: SweepRecipe) -> list[Any]:
    """The method at each rank; as it is where it has none or says its own."""
    if entry.method in PLAIN:
        return [entry.method]
    with as_bad_input():
        load(entry.method)
        method = from_data(entry.method)
        if entry.ranks and not _has_rank(method):
            raise BadInput(f"{method.name} has no rank r; leave out its ranks {entry.ranks}")
        ranks = entry.ranks or (None if _says_rank(entry.method) else sweep.ranks)
        if not ranks or not _has_rank(method):
            return [to_data(method)]
        return [to_data(method.with_fields(r=r)) for r in ranks]


def _has_rank(method: Method) -> bool:
    members = method.members if isinstance(method, Composition) else (method,)
    return any(f.name == "r" for member in members for f in fields(member))


def _says_rank(data: Any) -> bool:
    parts = data if isinstance(data, list) else [data]
    return any(isinstance(part, dict) and "r" in part for part in parts)
