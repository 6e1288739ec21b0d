"""From a folder of runs, or a table of them, to the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from subspace_tuning.errors import BadInput
from subspace_tuning.sweep.results import COLUMNS, gather, gather_failures, runs_below

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Source:
    """What a report is of: a folder of runs (one run's own folder too), or a .csv or .parquet of `subspace results`."""

    path: Path
    title: str | None = None
    floor: Path | None = None  # what `subspace bench step --output` wrote
    advice: Path | None = None  # what `subspace advise --json` printed
    estimate: Path | None = None  # what `subspace estimate --json` printed

    @property
    def folder(self) -> Path:
        """Where the folders of the runs are looked for."""
        return self.path if self.path.is_dir() else self.path.parent

    def runs(self) -> pandas.DataFrame:
        """As `sweep.results.gather` gives them. Raises BadInput where there are none to read."""
        return gather(self.path) if self.path.is_dir() else _read(self.path)

    def build(self, version: str = "", analyzed: int = 0, tick: Callable[[int], None] = lambda total: None) -> str:
        """The page. Raises BadInput where no run is finished."""
        from subspace_tuning.report import beforehand, study
        from subspace_tuning.report.page import page
        from subspace_tuning.report.pictures import pictures

        runs = study.arranged(self.runs())
        title = self.title or f"Fine-tuning runs of {self.path.resolve().name}"
        made = datetime.now().astimezone().strftime("on %Y-%m-%d at %H:%M")
        drawn = pictures(self.folder, runs, analyzed, tick) if analyzed else []
        shown = study.tell(runs, title, made, self.standing(), self._floor(), drawn)
        shown["advice"] = beforehand.advice(beforehand.read(self.advice, "subspace advise --json"))
        shown["estimate"] = beforehand.estimate(beforehand.read(self.estimate, "subspace estimate --json"))
        return page(shown, study.behind_clicks(self.folder, runs), version)

    def standing(self) -> dict:
        """What is not finished: how many, and which runs failed by what error."""
        if not self.path.is_dir():
            return {"open": 0, "failed": []}
        failed = gather_failures(self.path)
        begun = sum(
            not (run / "result.json").exists() and not (run / "error.txt").exists() for run in runs_below(self.path)
        )
        return {"open": begun, "failed": failed[["run", "error"]].to_dict("records")}

    def _floor(self) -> dict | None:
        if self.floor is None:
            return None
        try:
            return json.loads(self.floor.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(
                f"cannot read the floor {self.floor}: {error}; `subspace bench step --output` writes it"
            ) from error


def _read(path: Path) -> pandas.DataFrame:
    import pandas

    readers = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}
    if path.suffix not in readers or not path.is_file():
        raise BadInput(f"cannot report {path}: expected a folder of runs, or a .csv or .parquet of `subspace results`")
    try:
        runs = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {' '.join(str(error).split())}") from error
    lacking = [name for name in COLUMNS if name not in runs]
    if lacking:
        raise BadInput(
            f"{path} lacks {', '.join(lacking)}; write it by `subspace results DIR --format {path.suffix[1:]}`"
        )
    return runs.astype({"r": "Int64"})
