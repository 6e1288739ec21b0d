"""A sweep from beginning to end: tuning where it is asked for, the choice of rates, the final runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import write
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.sweep.engine import Progress, Rounds, TimeIsUp, work_off
from subspace_tuning.sweep.plan import Cell, Plan, Run
from subspace_tuning.sweep.pool import Pool
from subspace_tuning.sweep.recipe import SweepRecipe
from subspace_tuning.sweep.search import JOURNAL, Searched
from subspace_tuning.sweep.tuning import Choices


@dataclass(frozen=True)
class Stage:
    """How many runs a stage has, and how many of them are finished or failed last time."""

    name: str
    total: int
    finished: int
    failed: int

    @property
    def missing(self) -> int:
        return self.total - self.finished


@dataclass(frozen=True)
class Summary:
    """What became of a sweep."""

    stages: list[Stage]
    failed: dict[str, str]  # run -> what it said
    without_rate: list[str]  # cells of which no tuning run came through
    time_is_up: bool

    @property
    def is_complete(self) -> bool:
        return not (self.failed or self.without_rate or self.time_is_up)


class Sweep:
    """The runs of a sweep's recipe, in the folder that it names."""

    def __init__(self, recipe: SweepRecipe):
        self.recipe = recipe
        self.plan = Plan(recipe)
        self.choices = Choices(self.plan)
        asked = recipe.tuning.search if recipe.tuning else "grid"
        self.search = None if asked == "grid" else asked.optuna
        if not self.plan.cells:
            raise BadInput("the sweep excludes all of its runs; remove an exclusion")

    def stages(self) -> list[Stage]:
        """Where the sweep stands; finals whose rate is not chosen yet count as missing."""
        finals = [run for cell in self.plan.cells for run in self.final_runs(cell)]
        stages = [_stage("final", finals, len(finals) + sum(self._unknown(cell) for cell in self.plan.cells))]
        if self.search:
            trials = self.search.trials * len(self._tuned)
            begun = (self.plan.folder / JOURNAL).is_file()
            stages.insert(0, Stage("tuning", trials, trials - self._search().unfinished if begun else 0, 0))
        elif self.recipe.tuning is not None:
            tuning = [run for cell in self.plan.cells for run in self.plan.tuning_runs(cell)]
            stages.insert(0, _stage("tuning", tuning, len(tuning)))
        return stages

    @property
    def _tuned(self) -> list[Cell]:
        """The cells whose learning rate is chosen by tuning."""
        return [] if self.recipe.tuning is None else [cell for cell in self.plan.cells if cell.takes_steps]

    def final_runs(self, cell: Cell) -> list[Run]:
        """The final runs of a cell, none while its rate is to be chosen."""
        if cell not in self._tuned:
            return self.plan.final_runs(cell, cell.candidates)
        chosen = self.choices.of(cell)
        return [] if chosen is None else self.plan.final_runs(cell, (chosen,))

    def run(
        self,
        make_pool: Callable[[], Pool],
        changed: Callable[[Progress, Run, object], None] = lambda progress, run, outcome: None,
        max_hours: float | None = None,
    ) -> Summary:
        """Perform what is missing. Raises BadInput for a folder of something else, RunFailed when the disk is full."""
        until = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._open()
        before = self.stages()
        progress = Progress(total=sum(s.total for s in before), finished=sum(s.finished for s in before))
        progress.changed = changed
        without_rate: list[str] = []
        time_is_up = False
        pool = make_pool() if any(stage.missing for stage in before) else None
        try:
            if pool is not None:
                progress.jobs = pool.jobs
                without_rate = self._work(pool, progress, until)
        except TimeIsUp:
            time_is_up = True
        finally:
            if pool is not None:
                pool.close()
        return Summary(self.stages(), progress.failed, without_rate, time_is_up)

    def _work(self, pool: Pool, progress: Progress, until: float | None) -> list[str]:
        if self.search:
            work_off(self._search(), pool, self.recipe.retries, progress, until)
        work_off(Rounds(map(self._rounds, self.plan.cells)), pool, self.recipe.retries, progress, until)
        return [str(cell) for cell in self._tuned if self.choices.of(cell) is None]

    def _rounds(self, cell: Cell) -> Iterator[list[Run]]:
        """What is missing of a cell: its tuning runs, and then its final runs at what these chose."""
        if cell in self._tuned and self.choices.of(cell) is None:
            if not self.search:
                yield [run for run in self.plan.tuning_runs(cell) if not run.is_finished]
            self.choices.make(cell)
        yield [run for run in self.final_runs(cell) if not run.is_finished]

    def _search(self) -> Searched:
        assert self.search is not None
        return Searched(self.plan, [cell for cell in self._tuned if self.choices.of(cell) is None], self.search)

    def _unknown(self, cell: Cell) -> int:
        """Final runs of a cell whose rate is not chosen."""
        chosen = cell not in self._tuned or self.choices.of(cell) is not None
        return 0 if chosen else len(self.plan.final_runs(cell, ()))

    def _open(self) -> None:
        folder = self.plan.folder
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"the sweep's output {folder} is a file; name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "sweep.yaml", self.recipe.dump())
        for path in folder.glob("*/*/result.json"):
            RunFolder(path.parent).tidy()


def _stage(name: str, runs: list[Run], total: int) -> Stage:
    finished = [run.is_finished for run in runs]
    failed = sum((run.folder / "error.txt").is_file() and not done for run, done in zip(runs, finished, strict=True))
    return Stage(name, total, sum(finished), failed)
