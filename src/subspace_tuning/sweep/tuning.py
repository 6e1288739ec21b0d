"""What each cell of a sweep takes: the best candidate of its tuning runs, chosen once and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import write
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.sweep.plan import RATE, Candidate, Cell, Plan
from subspace_tuning.sweep.search import tried


class Choices:
    """choices/<cell>.json in the sweep's folder: the candidate, and what each came to.

    A choice stays, also when a failed tuning run comes through later: final runs already rest on it.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self._made: dict[Path, Candidate] = {}

    def of(self, cell: Cell) -> Candidate | None:
        """The chosen candidate, None while there is none."""
        path = self._path(cell)
        if path not in self._made and path.is_file():
            keys = [key for key, _ in cell.candidates[0]] if cell.candidates else [RATE]
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                self._made[path] = tuple((key, kept[key]) for key in keys)
                float(kept[RATE])
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(f"{path} is damaged: {error}; delete it and sweep again") from error
        return self._made.get(path)

    def make(self, cell: Cell) -> None:
        """Choose by ``best``; nothing where every candidate failed."""
        if self.of(cell) is not None:
            return
        scores: dict[Candidate, list[float | None]] = {}
        for candidate, score in self._tried(cell):
            scores.setdefault(candidate, []).append(score)
        chosen = best(scores)
        if chosen is None:
            return
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"method": cell.label, "task": cell.task, "model": cell.some.model, **dict(chosen)}
        came_to = [{**dict(c), "score": _mean(scores[c])} for c in sorted(scores)]
        write(path, json.dumps({**about, "tried": came_to}))

    def _tried(self, cell: Cell) -> list[tuple[Candidate, float | None]]:
        if self.plan.sweep.tuning is not None and self.plan.sweep.tuning.search != "grid":
            return tried(self.plan, cell)
        seeds = len(self.plan.sweep.tuning.seeds) if self.plan.sweep.tuning else 0
        candidates = [candidate for candidate in cell.candidates for _ in range(seeds)]
        results = [RunFolder(run.folder).result() for run in self.plan.tuning_runs(cell)]
        return [(c, None if r is None else r.score) for c, r in zip(candidates, results, strict=True)]

    def _path(self, cell: Cell) -> Path:
        return self.plan.folder / "choices" / f"{self.plan.key(cell)}.json"


def best(scores: Mapping[Candidate, Sequence[float | None]]) -> Candidate | None:
    """By the mean score over the tuning seeds; a candidate of which a run failed is out, of equals the lower rate."""
    means = {candidate: value for candidate in sorted(scores) if (value := _mean(scores[candidate])) is not None}
    return max(means, key=lambda candidate: means[candidate], default=None)


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return mean(known) if known and len(known) == len(scores) else None
