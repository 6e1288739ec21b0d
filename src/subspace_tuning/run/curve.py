"""A run's score along the strength t of its method: phi_t from the base (0) to what was trained (1), and beyond."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.aside import write
from subspace_tuning.files.plain import dump, read_object
from subspace_tuning.run.curve_picture import draw
from subspace_tuning.run.folder import Result, RunFolder
from subspace_tuning.run.judging import Judges
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.train import trainer_of
from subspace_tuning.tuner.strength import set_strength

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
FILE = "curve.json"

Retention = Callable[[Any, Any], float]  # (model, tokenizer) -> a score of something that the base could do


@dataclass(frozen=True)
class Point:
    """What a run scores at one strength."""

    t: float
    scores: dict[str, float]  # by every metric of the task
    kept: dict[str, float] = field(default_factory=dict)  # by every judgement of retention


@dataclass(frozen=True)
class Curve:
    """Points by their strengths, ascending; the greater a score the better, and what was kept unless it says less."""

    run: str  # which weights: of another training the points are others
    metric: str
    points: tuple[Point, ...]
    less: tuple[str, ...] = ()  # judgements of retention that are the better the smaller

    def score(self, point: Point) -> float:
        return point.scores[self.metric]

    @property
    def best(self) -> Point:
        """The highest score; with retention, the largest sum of the shares gained and kept. Of equals the least t."""
        return max(self.points, key=lambda point: (round(self._worth(point), 9), -abs(point.t)))

    def _worth(self, point: Point) -> float:
        if not point.kept:
            return self.score(point)
        return self._share(self.score(point), [self.score(p) for p in self.points]) + sum(
            self._kept_share(name, point) for name in point.kept
        ) / len(point.kept)

    def _kept_share(self, name: str, point: Point) -> float:
        sign = -1 if name in self.less else 1
        return self._share(sign * point.kept[name], [sign * p.kept[name] for p in self.points])

    @staticmethod
    def _share(value: float, values: Sequence[float]) -> float:
        """From 0 for the worst of the values to 1 for the best; 1 where all are alike."""
        low, high = min(values), max(values)
        return (value - low) / (high - low) if high > low else 1.0

    def says(self) -> str:
        """The best trade-off in words."""
        best, at = self.best, {point.t: point for point in self.points}
        told = f"{self._at(best)}: " + ("the best trade-off" if best.kept else f"the best {self.metric}")
        others = [self._at(at[t]) for t in (0.0, 1.0) if t in at and t != best.t]
        return f"{told} of {len(self.points)} strengths" + (f"; {', '.join(others)}" if others else "")

    def _at(self, point: Point) -> str:
        named = {self.metric: self.score(point), **{f"{name} kept": kept for name, kept in point.kept.items()}}
        return f"t = {point.t:g} ({', '.join(f'{name} {value:.4f}' for name, value in named.items())})"

    def to_data(self) -> dict[str, Any]:
        return {**asdict(self), "best": self.best.t, "says": self.says()}


def measure(
    run: Path | str,
    strengths: Sequence[float] = STRENGTHS,
    out: Path | str | None = None,
    retention: Mapping[str, Retention] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Curve:
    """Judge a finished run at each strength; curve.json, curve.png and curve.svg are written to ``out``, or the run.

    By what judged the run, its retention included; ``retention`` are further judgements. Points of the same weights
    that curve.json has already are kept and not measured again. What was trained whole beside the method (a
    classification head) is the trained one at every strength. Raises BadInput for runs without a dial, and for what is
    no strength.
    """
    folder, more = RunFolder(run), retention or {}
    path = Path(out or folder.path) / FILE
    result = _checked(folder, strengths)
    names = [*result.retention, *more]
    less = tuple(name for name, change in result.retention.items() if not change["greater_is_better"])
    which = f"{result.config_hash} {result.finished}"
    found = {p.t: p for p in _held(path, which, result.metric) if list(p.kept) == names}
    todo = [t for t in dict.fromkeys(map(float, strengths)) if t not in found]
    curve = Curve(which, result.metric, tuple(found[t] for t in sorted(found)), less)
    with TemporaryDirectory() as aside:
        judge = _judge(Predictor(run), Path(aside), more) if todo else None
        for t in todo:
            found[t] = point = judge(t)  # type: ignore[misc]
            curve = Curve(which, result.metric, tuple(found[t] for t in sorted(found)), less)
            write(path, dump(curve.to_data()) + "\n")
            say(curve._at(point))
    draw(
        [point.t for point in curve.points],
        {curve.metric: [curve.score(point) for point in curve.points]},
        {name: [point.kept[name] for point in curve.points] for name in names},
        less,
        curve.best.t,
        path.with_suffix(""),
    )
    return curve


def _checked(folder: RunFolder, strengths: Sequence[float]) -> Result:
    recipe, result = folder.recipe(), folder.result()
    if result is None:
        raise BadInput(f"{folder.path} is not finished; there is nothing to judge yet")
    if recipe.is_plain:
        raise BadInput(f"{folder.path} trained every weight, without a method: there is no strength to turn")
    if (method := recipe.method_object()).sits_on in ("tokens", "block"):
        raise BadInput(f"{method.name} sits on {method.sits_on}s, not on weights: there is no strength to turn")
    if not strengths or not all(math.isfinite(t) for t in strengths):
        raise BadInput(f"strengths are finite numbers, one or more; got {', '.join(map(str, strengths)) or 'none'}")
    return result


def _held(path: Path, which: str, metric: str) -> list[Point]:
    """The points of these weights that were measured before."""
    if not path.is_file():
        return []
    data = read_object(path, "the curve")
    if (data.get("run"), data.get("metric")) != (which, metric):
        return []
    with as_bad_input((TypeError, KeyError)):
        return [Point(**point) for point in data["points"]]


def _judge(predictor: Predictor, aside: Path, more: Mapping[str, Retention]) -> Callable[[float], Point]:
    """Judges the model at a strength, as training does."""
    model, tokenizer, recipe = predictor.model, predictor.tokenizer, predictor.recipe
    judges = Judges(recipe) if recipe.evaluate else None
    trainer = None if judges else trainer_of(recipe, RunFolder(aside), model, [])

    def at(t: float) -> Point:
        with as_bad_input():
            set_strength(model, t)
        if judges is None:
            scores, kept = predictor.task.judge(trainer), {}  # type: ignore[arg-type]
        else:
            judged = judges.after(model, {})
            scores = {judged.metric: judged.score}
            kept = {label: verdict.value for label, verdict in judged.after.items()}
        model.eval()
        return Point(t, scores, kept | {name: one(model, tokenizer) for name, one in more.items()})

    return at
