"""A run's folder: what is in it, and that nothing in it is ever half-written.

config.yaml     the resolved recipe
metrics.jsonl   one line a log or evaluation
log.txt         in a sweep: what it printed; error.txt: how it last failed
checkpoints/    while it runs: what resuming needs
verdicts.json   of language models: every judgement, with each row's own values
adapter/        the trained parameters and the head (model/ for full fine-tuning)
result.json     written last: a folder that has it is finished
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subspace_tuning.errors import BadInput, RunFailed, writing
from subspace_tuning.files.aside import is_aside, whole_folder, write
from subspace_tuning.files.checkpoint import trained
from subspace_tuning.files.claims import CLAIM, held, is_left
from subspace_tuning.run.recipe import Recipe, make, read


@dataclass(frozen=True)
class Result:
    """What a run came to. Trainable counts leave out the classification head unless they say so."""

    method: str
    category: str
    task: str
    model: str
    seed: int
    metric: str
    score: float
    checkpoint: str  # the rule by which the judged weights were chosen: last | best
    learning_rate: float
    steps: int
    trainable: int
    trainable_with_head: int
    total: int
    permille: float
    seconds: float
    seconds_per_step: float
    peak_memory_mb: float
    resumed_from_step: int
    config_hash: str
    device: str
    threads: int
    versions: dict[str, str]
    data: str = ""  # its name, where the task takes any
    hold_out: bool = False  # judged by rows held out of training, as searches are
    finished: str = ""  # when, UTC
    floor_ratio: float | None = None  # time of a step over the floor's, where it was asked for
    scores: dict[str, float] = field(default_factory=dict)  # by every metric of the task's kind
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each judgement, without the rows' own values
    retention: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each: metric, before, after, difference

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Raises ValueError that names what is missing, unknown or of another type."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"it holds {type(values).__name__}, expected names and values")
        for f in dataclasses.fields(cls):
            if f.name not in values and f.default is f.default_factory is dataclasses.MISSING:
                raise ValueError(f"it lacks {f.name}")
            if f.name in values and not _fits(values[f.name], str(f.type)):
                raise ValueError(f"{f.name} is {values[f.name]!r}, expected {f.type}")
        if unknown := values.keys() - {f.name for f in dataclasses.fields(cls)}:
            raise ValueError(f"it has an unknown {min(unknown)!r}")
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)


class RunFolder:
    """Reads and writes the parts of one run's folder."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"

    @classmethod
    def of(cls, recipe: Recipe) -> RunFolder:
        """The folder that a resolved recipe names, or one named for what it says."""
        if recipe.output:
            return cls(recipe.output)
        return cls(Path("runs") / f"{name_of(recipe)}-{recipe.digest()[:6]}")

    def recipe(self) -> Recipe:
        path = self.path / "config.yaml"
        if not path.is_file():
            raise BadInput(
                f"{self.path} is not a run: it has no config.yaml; give the folder that `subspace train` made"
            )
        return make(read(path))

    def result(self) -> Result | None:
        """The result, or None while the run is not finished."""
        path = self.path / "result.json"
        try:
            return Result.from_json(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} is damaged: {error}; delete it and train again") from error

    def weights(self) -> Path:
        """The folder with the trained weights."""
        return trained(self.path)

    @contextmanager
    def held(
        self, recipe: Recipe, again: bool = False, say: Callable[[str], None] = lambda text: None
    ) -> Iterator[Result | None]:
        """Nobody else is at the run within this. Gives its result where it is finished, else the folder is open.

        again: what is there of a run is removed. Raises BadInput as ``open`` does, and Held where another is at it.
        """
        self.check(None if again else recipe)
        done = None if again else self._finished(recipe, say)
        if done is not None:
            self.tidy()
            yield done
            return
        with held(self.path, say):
            if again:
                self.clear()
            done = self._finished(recipe, say)  # by one that we had to wait for
            if done is None:
                self.open(recipe)
            yield done

    def tidy(self) -> None:
        """Of a finished run: remove what a process left that ended while it cleared up."""
        claimed = (self.path / CLAIM).exists()  # by a living one, who clears up himself, unless it is left
        if is_left(self.path) if claimed else self.checkpoints.exists():
            with suppress(BadInput, RunFailed, OSError), held(self.path):
                shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _finished(self, recipe: Recipe, say: Callable[[str], None]) -> Result | None:
        done = self.result()
        if done is None or done.config_hash != recipe.digest():
            return None
        say(f"{self.path} is finished already; --again runs it anew")
        return done

    def check(self, recipe: Recipe | None) -> None:
        """Raises BadInput where there is something that is no run, or a run of another recipe than this one."""
        with writing(self.path):
            is_run = (self.path / "config.yaml").is_file()
        if is_run:
            given = self.recipe()
            if recipe is not None and given.digest() != recipe.digest():
                raise BadInput(
                    f"{self.path} holds a run of another config; name another output, or start it over with --again"
                )
        elif self.path.is_dir() and any(path.name != CLAIM and not is_aside(path) for path in self.path.iterdir()):
            raise BadInput(f"{self.path} is not empty and not a run; name another output")

    def open(self, recipe: Recipe) -> None:
        """Take the folder for a run of this recipe. Raises BadInput when it holds a run of another one."""
        self.check(recipe)
        made = not self.path.exists()
        try:
            write(self.path / "config.yaml", recipe.dump())
        except BaseException:
            if made:
                with suppress(OSError):
                    self.path.rmdir()
            raise

    def clear(self) -> None:
        """Remove the parts of an earlier run, and nothing else; a folder that is no run is left as it is."""
        if not (self.path / "config.yaml").is_file():
            return
        self.recipe()  # raises for a config.yaml of something else
        with writing(self.path):
            for name in ("result.json", "verdicts.json", "metrics.jsonl", "log.txt", "error.txt"):
                (self.path / name).unlink(missing_ok=True)
            for name in ("checkpoints", "adapter", "model"):
                with suppress(FileNotFoundError):
                    shutil.rmtree(self.path / name)
            (self.path / "config.yaml").unlink(missing_ok=True)

    @property
    def noted(self) -> int:
        """The bytes of metrics.jsonl."""
        return self.metrics.stat().st_size if self.metrics.is_file() else 0

    def keep_metrics(self, noted: int) -> None:
        """Drop the lines that an interrupted run wrote after its last checkpoint."""
        if self.noted > noted:
            write(self.metrics, self.metrics.read_bytes()[:noted])

    def log(self, values: dict[str, Any]) -> None:
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def finish(self, result: Result, kind: str | None, save: Callable[[Path], None]) -> None:
        """Write the weights with ``save`` into ``kind``/ (adapter, model; None: there are none), then the result."""
        if kind is not None:
            with whole_folder(self.path / kind) as folder:
                save(folder)
        write(self.path / "result.json", result.to_json() + "\n")
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def name_of(recipe: Recipe) -> str:
    """What a recipe is about, as part of a folder's name."""
    method = "".join(c if c.isalnum() or c in "._-" else "-" for c in recipe.method_label).strip("-")
    return f"{recipe.task}-{Path(recipe.model).name}-{method}-seed{recipe.seed}"


def _fits(value: Any, kind: str) -> bool:
    """Whether a value read from JSON is of the kind that an annotation names."""
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
    kinds |= dict.fromkeys(("dict[str, str]", "dict[str, float]", "dict[str, dict[str, Any]]"), (dict,))
    kinds |= {"float | None": (int, float, type(None))}
    fits = isinstance(value, kinds[kind]) and (kind == "bool" or not isinstance(value, bool))
    return fits and not (isinstance(value, int) and abs(value) >= 1 << 63)
