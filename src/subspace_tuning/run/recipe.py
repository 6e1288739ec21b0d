"""A recipe: everything that decides a run, as a YAML file, key=value words, or keywords.

``Recipe`` is what a person writes, most of it optional; ``resolved`` fills in every default, so that the config in a
run's folder says all there is to say.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Container
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from subspace_tuning.errors import BadInput, as_bad_input, nearest
from subspace_tuning.files import assets
from subspace_tuning.files.text import UTF8, known_encoding, read_text
from subspace_tuning.method import Composition, Method
from subspace_tuning.method.mpc import WEIGHT
from subspace_tuning.method.registry import NotLoaded, from_data, load, to_data
from subspace_tuning.run.contradictions import check_fields, check_method
from subspace_tuning.run.judgements import check_judgements
from subspace_tuning.run.precision import has_bf16
from subspace_tuning.run.yaml_words import holds_texts, parse
from subspace_tuning.tasks import KINDS, Task, task_of
from subspace_tuning.tasks.glue import GLUE
from subspace_tuning.tasks.registry import keys
from subspace_tuning.tuner.patterns import Patterns

FULL = "full"  # full fine-tuning: a baseline, no method of the registry
HEAD = "head"  # a linear probe, another baseline: the head alone is trained
NONE = "none"  # the base as it is, judged like the others
PLAIN = (FULL, HEAD, NONE)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C where PyYAML has it: four times as fast
PLAIN_LEARNING_RATES = {FULL: 5e-5, HEAD: 1e-2, NONE: 1.0}  # none takes no step
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Recipe(BaseModel):
    """What to train on what, and how."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    # what
    model: str = assets.DEFAULT
    task: str = "movie_reviews"  # conversations where the model is smollm2
    data: str | None = None
    encoding: str = UTF8  # of data in text files
    # ... and what else the task's kind takes: columns, label, labels, metric
    train_samples: PositiveInt | None = None
    eval_samples: PositiveInt | None = None
    hold_out: bool = False
    max_length: PositiveInt | None = None  # in tokens; 128 (language models: 1024), or what the tokenizer allows
    dtype: Literal["fp32", "bf16", "fp16"] | None = None  # of the base; None: as its checkpoint has it

    # by which method
    method: Any = "ssb"
    mpc: Literal["o", "d", "n"] | None = None
    mpc_weight: float = Field(WEIGHT, ge=0)
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: Annotated[list[int], Field(min_length=1)] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}

    calibration_batches: PositiveInt = 8  # of training data, for methods that look at some before they start

    # how
    seed: Seed = 0
    learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    max_steps: PositiveInt | None = None
    gradient_accumulation: PositiveInt = 1
    eval_batch_size: PositiveInt = 64
    optimizer: str | dict[str, Any] = "adamw"  # or one that knows the factors (optim/): a name, or name and fields
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.06, ge=0, lt=1)
    schedule: str = "linear"
    max_grad_norm: PositiveFloat = 1.0
    group_by_length: bool = True
    bf16: bool | Literal["auto"] = False  # auto: where the machine has units for it
    gradient_checkpointing: bool = False
    evaluate_every: PositiveInt | Literal["epoch", "end"] = "epoch"
    save_every: PositiveInt | Literal["epoch", "never"] = "epoch"
    checkpoint: Literal["last", "best"] = "last"
    early_stopping: PositiveInt | None = None
    log_every: PositiveInt = 10
    report_to: list[str] = []
    trainer: dict[str, Any] = {}

    # how language models are judged (judge/): the first of evaluate gives the score, the base's retention is compared
    evaluate: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    retention: list[dict[str, Any]] = []

    floor: bool = False  # time a step against the floor before training

    # where
    output: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual_task(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("model") == assets.SMALL_LM and values.get("task") is None:
            return {**values, "task": "conversations"}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        check_fields(self)
        with suppress(NotLoaded):  # a class from elsewhere is imported first: see resolved
            check_method(self)
        return self

    @property
    def is_plain(self) -> bool:
        """Whether the model is taken as it is, all of it, its head or nothing trained: no method of the registry."""
        return self.method in PLAIN

    @property
    def in_bf16(self) -> bool:
        """Whether it computes in bf16, on this machine."""
        return has_bf16() if self.bf16 == "auto" else self.bf16

    def task_object(self) -> Task:
        """The task with what the recipe says of it. Raises BadInput for one that does not exist."""
        return task_of(self.task, self.model_extra)

    def method_object(self) -> Method:
        """The method, without its MPC. Raises BadInput for one that does not exist."""
        with as_bad_input():
            return from_data(self.method)

    @property
    def data_name(self) -> str:
        """Which data, where the task takes any: the name of the file, folder or hub's data set, and its part there."""
        if self.data is None or self.task not in KINDS:
            return ""
        return " ".join(filter(None, [Path(self.data).name, (self.model_extra or {}).get("subset")]))

    @property
    def method_label(self) -> str:
        """``lora(r=4)+mpc_o``: the method with its rank and whatever is not as usual, as tables show it."""
        if self.is_plain:
            return self.method
        method = self.method_object()
        members = method.members if isinstance(method, Composition) else (method,)
        return "|".join(_label(member) for member in members) + (f"+mpc_{self.mpc}" if self.mpc else "")

    def resolved(self) -> Recipe:
        """The same recipe, about to be trained, with every default filled in; a method from elsewhere is imported.

        Raises BadInput where parts contradict each other.
        """
        task = self.task_object()
        known_encoding(self.encoding)
        Patterns(self)
        check_judgements(self.evaluate, self.retention, task)
        if self.method == HEAD and not task.has_head:
            raise BadInput(f"method: {HEAD} trains a new head, and task: {task.name} puts none on the model")
        with as_bad_input():
            load(self.method)
            check_method(self)
        method = None if self.is_plain else self.method_object()
        rate, batch_size, epochs = _paper_values(self.task) or (None, task.usual["batch_size"], task.usual["epochs"])
        own_rate = PLAIN_LEARNING_RATES[self.method] if method is None else rate or method.learning_rate
        filled = {
            "method": self.method if method is None else to_data(method),
            "learning_rate": self.learning_rate or own_rate,
            "batch_size": self.batch_size or batch_size,
            "epochs": self.epochs or epochs,
            "bf16": self.in_bf16,
            "evaluate": self.evaluate or [dict(judgement) for judgement in task.judgements] or None,
            **{key: value for key, value in task.to_data().items() if self.task in KINDS or key in task.free},
        }
        return self.model_copy(update=filled)

    def digest(self) -> str:
        """A hash of all that decides the result."""
        decisive = self.model_dump(mode="json", exclude={"output", "report_to", "log_every", "floor"})
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    def dump(self) -> str:
        return yaml.dump(self.model_dump(mode="json"), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)


def _label(method: Method) -> str:
    shown = {f.name: getattr(method, f.name) for f in fields(method)}
    kept = [f"{f.name}={shown[f.name]}" for f in fields(method) if f.name == "r" or shown[f.name] != f.default]
    return f"{method.name}({','.join(kept)})" if kept else method.name


@cache
def _paper_values(task: str) -> tuple[float | None, int, float] | None:
    """Learning rate, batch size and epochs of the paper for a GLUE task (arXiv:2407.05417, Tables V and VI)."""
    if task not in GLUE:
        return None
    with (files("subspace_tuning") / "data" / "glue_hyperparameters.csv").open(encoding="utf-8") as file:
        rows = {row["task"]: row for row in csv.DictReader(line for line in file if not line.startswith("#"))}
    row = rows[task]
    return float(row["learning_rate"]), int(row["batch_size"]), float(row["epochs"])


def make(values: dict[str, Any]) -> Recipe:
    """A recipe from plain data. Raises BadInput that names the key, what it was given and the nearest known key."""
    known = known_keys()
    for key in values:
        if key not in known:
            raise BadInput(f"the recipe has an unknown key {key!r}: {_hint(key)}known keys are {', '.join(known)}")
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise BadInput(told(error, "the recipe")) from error


def told(error: ValidationError, whose: str) -> str:
    """The first of pydantic's complaints in one sentence."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # list[int] is pydantic's own word
    said = first["msg"].removeprefix("Value error, ")
    return f"{whose}'s {key} is {first['input']!r}: {said}" if key else said


def _hint(key: Any) -> str:
    if key in ("r", "rank", "alpha", "dropout"):
        return f"it is the method's field, did you mean 'method.{'r' if key == 'rank' else key}'? "
    return nearest(str(key), known_keys())


def known_keys() -> list[str]:
    """What a recipe can say: of the run, and of tasks of any kind."""
    return list(dict.fromkeys([*Recipe.model_fields, *keys()]))


def texts_in(model: type[BaseModel]) -> set[str]:
    """The keys whose values are texts or lists of texts."""
    types = {key: field.annotation for key, field in model.model_fields.items()}
    return {key for key, annotation in types.items() if holds_texts(annotation)}


def words() -> set[str]:
    """The keys of a recipe whose values are texts or lists of texts."""
    return texts_in(Recipe) | {key for key, annotation in keys().items() if holds_texts(annotation)}


def read(path: Path, texts: Container[str] | None = None) -> dict[str, Any]:
    """The plain data of a recipe file; ``texts`` are the keys whose values are words, by default those of a recipe."""
    try:
        data = parse(read_text(path), words() if texts is None else texts)
    except BadInput as error:
        raise BadInput(f"cannot read the recipe: {error}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"the recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BadInput(f"the recipe {path} holds {type(data).__name__}, expected keys and values such as `method: ssb`")
    return data


def override(data: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """The data with ``key=value`` words applied; ``method.r=4`` reaches into a mapping, values are read as YAML."""
    data, texts = dict(data), words()
    for word in changes:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise BadInput(f"cannot use {word!r}: expected key=value, such as seed=1 or method.r=4")
        try:
            value = parse(text, texts, key)
        except yaml.YAMLError as error:
            raise BadInput(f"the value of {key} is not YAML: {text!r}") from error
        outer, dot, inner = key.partition(".")
        if not dot:
            data[key] = value
            continue
        held = data.get(outer, Recipe.model_fields[outer].default if outer in Recipe.model_fields else None)
        if outer in ("method", "optimizer") and isinstance(held, str):
            held = {"name": held}
        if not isinstance(held, dict):
            raise BadInput(f"cannot set {key}: {outer} is {held!r}, which has no fields to set one by one")
        data[outer] = {**held, inner: value}
    return data


__all__ = ["FULL", "HEAD", "NONE", "Recipe", "make", "override", "read"]
