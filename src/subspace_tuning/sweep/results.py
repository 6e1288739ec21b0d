"""What the runs below a folder came to, as one table: a row a finished run.

The run folders are the truth; nothing is kept beside them. DuckDB reads their result.json files in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from subspace_tuning.errors import BadInput

if TYPE_CHECKING:
    import pandas

_STORED = {
    "method": "VARCHAR",
    "category": "VARCHAR",
    "task": "VARCHAR",
    "model": "VARCHAR",
    "seed": "BIGINT",
    "metric": "VARCHAR",
    "score": "DOUBLE",
    "learning_rate": "DOUBLE",
    "steps": "BIGINT",
    "trainable": "BIGINT",
    "total": "BIGINT",
    "permille": "DOUBLE",
    "seconds": "DOUBLE",
    "seconds_per_step": "DOUBLE",
    "peak_memory_mb": "DOUBLE",
    "config_hash": "VARCHAR",
    "device": "VARCHAR",
    "threads": "BIGINT",
    "hold_out": "BOOLEAN",  # missing in older files
    "finished": "VARCHAR",  # likewise
}
# A label is name(field=value,...)[|name(...)][+mpc_o]; the rank is a column of its own.
_SELECT = r"""
    WITH found AS (
        SELECT *, regexp_extract_all(method, '[(,]r=(\d+)', 1) AS rs
        FROM read_json(?, format = 'auto', columns = ?, filename = true)
    ), newest AS (
        SELECT * FROM found QUALIFY row_number() OVER (
            PARTITION BY config_hash, coalesce(hold_out, false) ORDER BY finished DESC NULLS LAST, filename DESC) = 1
    )
    SELECT
        filename AS run,
        replace(regexp_replace(regexp_replace(method, '([(,])r=\d+(,|(\)))', '\1\3', 'g'), ',\)', ')', 'g'), '()', '')
            AS method,
        method AS label,
        CASE WHEN len(list_distinct(rs)) = 1 THEN rs[1]::BIGINT END AS r,
        task, model, seed, metric, score, learning_rate, trainable, total, permille, category, steps, seconds,
        seconds_per_step, peak_memory_mb, device, threads,
        CASE WHEN hold_out THEN 'tuning' ELSE 'final' END AS kind,
        config_hash
    FROM newest ORDER BY task, model, method, r, seed, filename
"""


def gather(folder: Path) -> pandas.DataFrame:
    """One row for each finished run below the folder; an empty table where none is finished.

    Columns: run (its folder, relative to the given one), method (the label without the rank, lora+mpc_o), label, r
    (missing for methods without a rank), task, model, seed, metric, score, learning_rate, trainable, total, permille,
    category, steps, seconds, seconds_per_step, peak_memory_mb, device, threads, kind (final, or tuning for runs judged
    by held-out training rows), config_hash. Of runs with the same config the one that ended last counts, once.
    Raises BadInput where the folder is missing or a result is damaged.
    """
    import duckdb
    import pandas

    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; give one that holds runs, such as a sweep's output")
    files = [str(path / "result.json") for path in runs_below(folder) if (path / "result.json").is_file()]
    with duckdb.connect() as base:
        try:
            table = base.execute(_SELECT, [files, _STORED]).df() if files else pandas.DataFrame(columns=list(COLUMNS))
        except duckdb.Error as error:
            raise BadInput(f"a result below {folder} is damaged: {str(error).splitlines()[0]}; run it again") from error
    table["run"] = [os.path.relpath(Path(path).parent, folder) for path in table["run"]]
    return table.astype(COLUMNS)


_TEXTS = ("run", "method", "label", "task", "model", "metric", "category", "device", "kind", "config_hash")
_COUNTS = ("seed", "trainable", "total", "steps", "threads")
COLUMNS = {
    name: "str" if name in _TEXTS else "int64" if name in _COUNTS else "Int64" if name == "r" else "float64"
    for name in (
        *("run", "method", "label", "r", "task", "model", "seed", "metric", "score", "learning_rate", "trainable"),
        *("total", "permille", "category", "steps", "seconds", "seconds_per_step", "peak_memory_mb", "device"),
        *("threads", "kind", "config_hash"),
    )
}


def gather_failures(folder: Path) -> pandas.DataFrame:
    """The runs below the folder that failed: run, error (its last line) and log (the file that tells more)."""
    import pandas

    rows = []
    for path in runs_below(Path(folder)):
        if (path / "error.txt").is_file() and not (path / "result.json").is_file():
            said = (path / "error.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            rows.append((os.path.relpath(path, folder), said[-1] if said else "", str(path / "log.txt")))
    return pandas.DataFrame(rows, columns=["run", "error", "log"])


def runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs, finished or not, in order; what is inside a run is not looked at."""
    for path, below, files in os.walk(folder):
        if "config.yaml" in files:
            below.clear()
            yield Path(path)
        below.sort()
