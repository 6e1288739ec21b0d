"""The demo: eleven methods fine-tune one pretrained model on real data; a table and a picture of what came of it.

    subspace demo [--quick]

Writes a run folder for each contender, summary.json, summary.md and score_against_parameters.png|svg to runs/demo/.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from subspace_tuning.errors import RunFailed
from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table
from subspace_tuning.run.folder import Result
from subspace_tuning.run.recipe import Recipe, make, read
from subspace_tuning.run.side_by_side import cores, run_all

OUTPUT = Path("runs/demo")
HEADER = ("method", "category", "trainable", "per mille", "score", "% of full", "s/step", "peak memory")


@dataclass(frozen=True)
class Contender:
    title: str
    recipe: Recipe

    @property
    def slug(self) -> str:
        kept = "".join(c if c.isalnum() else "-" for c in self.title.lower())
        return "-".join(part for part in kept.split("-") if part)


@dataclass(frozen=True)
class Demo:
    """The contenders of data/demo.yaml."""

    contenders: list[Contender]

    @classmethod
    def read(cls, quick: bool = False, output: Path = OUTPUT) -> Demo:
        data = read(_recipe_file())
        shared = {**data["base"], **(data["quick"] if quick else {})}
        contenders = []
        for entry in data["contenders"]:
            own = {key: value for key, value in entry.items() if key != "title"}
            unplaced = Contender(entry["title"], make({**shared, **own}))
            where = {"output": str(output / unplaced.slug)}
            contenders.append(Contender(unplaced.title, unplaced.recipe.model_copy(update=where)))
        return cls(contenders)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    title: str
    result: Result
    percent_of_full: float

    def cells(self) -> tuple[str, ...]:
        r = self.result
        return (
            self.title,
            r.category,
            f"{r.trainable:,}",
            f"{r.permille:.2f}",
            f"{100 * r.score:.1f}",
            f"{self.percent_of_full:.1f}",
            f"{r.seconds_per_step:.2f}",
            f"{r.peak_memory_mb:,.0f} MB",
        )


def run(
    quick: bool = False,
    output: Path = OUTPUT,
    workers: int | None = None,
    again: bool = True,
    say: Callable[[str], None] = print,
) -> list[Line]:
    """Run every contender and write the summary; raises RunFailed when one of them did not come through."""
    from subspace_tuning.files import assets

    began = time.perf_counter()
    assets.default_model(), assets.movie_reviews()  # fetched once, before the runs start side by side
    contenders = Demo.read(quick, output).contenders
    results: dict[int, Result] = {}
    for number, outcome in run_all([c.recipe for c in contenders], workers, again=again):
        if isinstance(outcome, Exception):
            raise RunFailed(f"{contenders[number].title}: {outcome}")
        results[number] = outcome
        took = f"{outcome.seconds:.0f} s"
        say(f"{len(results):2}/{len(contenders)}  {contenders[number].title:20} {100 * outcome.score:5.1f}   {took}")
    lines = ranked([(contender.title, results[i]) for i, contender in enumerate(contenders)])
    _summarise(lines, output, quick, time.perf_counter() - began)
    return lines


def ranked(results: list[tuple[str, Result]]) -> list[Line]:
    """The lines of the table, fewest parameters first."""
    full = next(result.score for _, result in results if result.category == "full")
    ordered = sorted(results, key=lambda pair: pair[1].trainable)
    return [Line(title, result, 100 * result.score / full) for title, result in ordered]


def markdown(lines: list[Line]) -> str:
    return table(HEADER, (line.cells() for line in lines), numbers_from=2)


def _summarise(lines: list[Line], output: Path, quick: bool, seconds: float) -> None:
    from subspace_tuning.run.picture import score_against_parameters

    some = lines[0].result
    setting: dict[str, Any] = {
        "quick": quick,
        "cores": cores(),
        "threads_a_run": some.threads,
        "device": some.device,
        "seconds": round(seconds, 1),
        "metric": some.metric,
        "steps": some.steps,
    }
    output.mkdir(parents=True, exist_ok=True)
    rows = [{"title": x.title, "percent_of_full": x.percent_of_full, **asdict(x.result)} for x in lines]
    write(output / "summary.json", json.dumps({**setting, "results": rows}, indent=2) + "\n")
    about = (
        f"MiniLM (22.7 M parameters) on movie-review sentences: {some.metric} in %, {some.steps} steps a run, "
        f"{cores()} cores, {some.threads} thread(s) a run, {seconds / 60:.1f} minutes in all.\n"
    )
    write(output / "summary.md", f"{about}\n{markdown(lines)}")
    score_against_parameters([(x.title, x.result) for x in lines], output / "score_against_parameters")


def _recipe_file() -> Path:
    """recipes/demo.yaml of the folder one stands in, where there is one; else the package's own."""
    own = Path("recipes/demo.yaml")
    return own if own.is_file() else Path(__file__).parents[1] / "data" / "demo.yaml"


def show(quick: bool, output: Path, workers: int | None) -> None:
    """Run the demo and print its table."""
    from subspace_tuning.run.picture import show_table

    lines = run(quick, output, workers)
    show_table(HEADER, [line.cells() for line in lines])
    print(f"written to {output}/: summary.md, summary.json, score_against_parameters.png and .svg")
