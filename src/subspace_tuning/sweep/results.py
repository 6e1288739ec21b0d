"""What the runs below a folder came to, as one table: a row a finished run.

The run folders are the truth; nothing is kept beside them. DuckDB answers queries of the table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_tuning.errors import BadInput, nearest
from subspace_tuning.files.markdown import table as table_of
from subspace_tuning.run.folder import Result
from subspace_tuning.sweep.labels import rank, without_rank

if TYPE_CHECKING:
    import pandas


def gather(folder: Path, say: Callable[[str], None] = lambda text: None) -> pandas.DataFrame:
    """One row for each finished run below the folder; an empty table where none is finished.

    Columns: run (its folder, relative to the given one), method (the label without the rank, lora+mpc_o), label, r
    (missing for methods without a rank), task (with the name of its data, or its metric, where the runs have several),
    model, seed, metric, score, learning_rate, trainable, total, permille, category, steps, seconds, seconds_per_step,
    peak_memory_mb, device, threads, kind (final, or tuning for runs judged by held-out training rows), config_hash; for
    each judgement of retention after_NAME, change_NAME (after less before) and kept_NAME (the change, positive where it
    became better). Of runs with the same config the one that ended last counts, once.
    A result that cannot be read is left out, and ``say`` is told so. Raises BadInput where the folder is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; give one that holds runs, such as a sweep's output")
    latest: dict[tuple[str, bool], tuple[str, Result]] = {}
    for path in runs_below(folder, say):
        result = _read(path / "result.json", say)
        if result is not None:
            key = result.config_hash, result.hold_out
            if key not in latest or result.finished >= latest[key][1].finished:
                latest[key] = os.path.relpath(path, folder), result
    return tabulated(dict(latest.values()))


def tabulated(results: Mapping[str, Result]) -> pandas.DataFrame:
    """The table of results by the names of their runs."""
    import pandas

    rows = [{"run": run, **vars(result), **kept_of(result.retention)} for run, result in results.items()]
    kept = list(dict.fromkeys(name for result in results.values() for name in kept_of(result.retention)))
    table = pandas.DataFrame(rows, columns=[*COLUMNS, "data", "hold_out", *kept])
    table["hold_out"] = table["hold_out"].astype(bool)
    for what in ("data", "metric"):
        table["task"] = _with(what, table)
    table["label"] = table["method"]
    named = {label: (without_rank(label), rank(label)) for label in table["label"].unique()}
    table["method"] = [named[label][0] for label in table["label"]]
    table["r"] = pandas.array([named[label][1] for label in table["label"]], dtype="Int64")
    table["kind"] = ["tuning" if held else "final" for held in table["hold_out"]]
    order = ["task", "model", "method", "r", "seed", "run"]
    return table[[*COLUMNS, *kept]].astype(COLUMNS).sort_values(order, ignore_index=True)


def _with(what: str, table: pandas.DataFrame) -> pandas.Series:
    """The tasks; one whose final runs have several data, or metrics, with the run's own in its name."""
    found = table[~table["hold_out"]].groupby("task")[what].nunique()
    several = table["task"].isin(found.index[found > 1])
    return table["task"].mask(several, (table["task"] + " " + table[what]).str.rstrip())


def kept_of(retention: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What a run kept of the base's abilities, as columns: after, change, and kept for the better or the worse."""
    columns = {}
    for label, change in retention.items():
        name, sign = re.sub(r"\W+", "_", label), 1 if change["greater_is_better"] else -1
        columns[f"after_{name}"] = change["after"]
        columns[f"change_{name}"] = change["difference"]
        columns[f"{KEPT}{name}"] = sign * change["difference"]
    return columns


def _read(path: Path, say: Callable[[str], None]) -> Result | None:
    """A result; None where there is none to read. Not by DuckDB: slow at many small files."""
    try:
        return Result.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        say(f"{path} is damaged and left out: {error}; delete it and run it again")
        return None


KEPT = "kept_"  # in front of a judgement of retention: how it changed, positive where it became better
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
    """The runs below the folder that failed, or whose result cannot be read.

    Columns: run, error (its last line) and log (the file that tells more).
    """
    import pandas

    rows = []
    for path in runs_below(Path(folder)):
        said: list[str] = []
        if (path / "error.txt").exists() and not (path / "result.json").exists():
            said = _last_line(path / "error.txt")
        else:
            _read(path / "result.json", said.append)
        rows += [(os.path.relpath(path, folder), line, str(path / "log.txt")) for line in said]
    return pandas.DataFrame(rows, columns=["run", "error", "log"])


def _last_line(path: Path) -> list[str]:
    try:
        return (path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1:]
    except OSError as error:
        return [f"cannot read {path}: {error.strerror}"]


def runs_below(folder: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[Path]:
    """The folders of runs, finished or not, in order; what is inside a run is not looked at.

    ``say`` is told of folders that cannot be looked into.
    """
    for path, below, files in os.walk(folder, onerror=lambda e: say(f"cannot look into {e.filename}: {e.strerror}")):
        if "config.yaml" in files:
            below.clear()
            yield Path(path)
        below.sort()


def query(
    runs: pandas.DataFrame, *, sql: str | None = None, by: list[str] | None = None, where: str | None = None
) -> pandas.DataFrame:
    """Rows of ``runs`` by a query of one's own, or filtered, or as mean score, standard error, number a group, and what
    was kept on average.

    Groups are of final runs unless ``where`` names ``kind``. Raises BadInput for what is no SQL, or names no column.
    """
    import duckdb

    if by is not None:
        names = [name.strip() for name in by]
        for name in names:
            if name not in runs:
                raise BadInput(f"--by {name} is no column: {nearest(name, runs)}columns are {', '.join(runs)}")
        kept = where if where and "kind" in where else f"kind = 'final' AND ({where or 'true'})"
        keys = ", ".join(f'"{name}"' for name in names)
        measures = "avg(score) AS mean, stddev_samp(score) / sqrt(count(*)) AS standard_error, count(*) AS runs"
        measures += "".join(f', avg("{name}") AS "{name}"' for name in runs if name.startswith(KEPT))
        sql = f"SELECT {keys}, {measures} FROM runs WHERE {kept} GROUP BY {keys} ORDER BY {keys}"
    sql = sql or f"SELECT * FROM runs WHERE {where or 'true'}"
    with duckdb.connect(config={"enable_external_access": "false"}) as base:  # the table, and no file
        base.register("runs", runs)
        try:
            return base.execute(sql).df()
        except duckdb.Error as error:
            raise BadInput(f"DuckDB cannot answer: {str(error).splitlines()[0]}") from error


def write_as(table: pandas.DataFrame, form: str) -> bytes:
    """The table as table (aligned text), csv, parquet, latex or markdown."""
    import io

    if form == "csv":
        return table.to_csv(index=False).encode()
    if form == "parquet":
        held = io.BytesIO()
        table.to_parquet(held, index=False)
        return held.getvalue()
    shown = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return {"table": _text, "latex": _latex, "markdown": table_of}[form](list(table.columns), shown).encode()


def _cell(value: Any) -> str:
    import pandas

    if pandas.api.types.is_scalar(value) and pandas.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in [header, *rows])


def _latex(header: list[str], rows: list[list[str]]) -> str:
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (header, *rows)]
    spec = "l" * len(header)
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    return f"\\begin{{tabular}}{{{spec}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
