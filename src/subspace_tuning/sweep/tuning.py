"""Which learning rate each cell of a sweep takes: the best of its tuning runs, chosen once and kept."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import write
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.sweep.plan import Cell, Plan
from subspace_tuning.sweep.search import tried


class Choices:
    """choices/<cell>.json in the sweep's folder: the rate, and what each candidate came to.

    A choice stays, also when a failed tuning run comes through later: final runs already rest on it.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self._made: dict[Path, float] = {}

    def of(self, cell: Cell) -> float | None:
        """The chosen rate, None while there is none."""
        path = self._path(cell)
        if path not in self._made and path.is_file():
            try:
                self._made[path] = float(json.loads(path.read_text(encoding="utf-8"))["learning_rate"])
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(f"{path} is damaged: {error}; delete it and sweep again") from error
        return self._made.get(path)

    def make(self, cell: Cell) -> None:
        """Choose by the mean score over the tuning seeds; a rate at which a run failed is out, of equals the lower."""
        if self.of(cell) is not None:
            return
        scores: dict[float, list[float | None]] = {}
        for rate, score in self._tried(cell):
            scores.setdefault(rate, []).append(score)
        means = {rate: mean(s for s in found if s is not None) for rate, found in scores.items() if None not in found}
        if not means:
            return
        best = max(means, key=lambda rate: (means[rate], -rate))
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"method": cell.label, "task": cell.some.task, "model": cell.some.model, "learning_rate": best}
        write(
            path, json.dumps({**about, "tried": [{"learning_rate": r, "score": means.get(r)} for r in sorted(scores)]})
        )

    def _tried(self, cell: Cell) -> list[tuple[float, float | None]]:
        if self.plan.sweep.tuning is not None and self.plan.sweep.tuning.search != "grid":
            return tried(self.plan, cell)
        found = []
        for run in self.plan.tuning_runs(cell):
            result = RunFolder(run.folder).result()
            found.append((float(run.recipe.learning_rate or 0), None if result is None else result.score))
        return found

    def _path(self, cell: Cell) -> Path:
        return self.plan.folder / "choices" / f"{self.plan.key(cell)}.json"
