"""The command that gathers finished runs into a table."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from subspace_tuning.cli.command import command


@command(
    "results",
    examples=[
        "subspace results runs/sweep",
        "subspace results runs/sweep --by method,task --format markdown",
        "subspace results runs --where \"kind = 'final' and permille < 1\" --format csv > small.csv",
        'subspace results runs/sweep --sql "select method, max(score) from runs group by method"',
        "subspace results runs/sweep --format parquet --output runs.parquet",
    ],
)
def results(
    folder: Annotated[Path, typer.Argument(help="A folder with runs, at whatever depth.", show_default=False)],
    form: Annotated[
        Literal["table", "csv", "parquet", "latex", "markdown"], typer.Option("--format", help="How it is written.")
    ] = "table",
    by: Annotated[
        str | None, typer.Option(help="Columns with commas: mean, standard error and number of runs for each group.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Keep these rows, as in SQL: \"task = 'rte' and r <= 4\".")] = None,
    sql: Annotated[str | None, typer.Option(help="Any query of the table `runs`, in DuckDB's SQL.")] = None,
    failures: Annotated[bool, typer.Option("--failures", help="Instead the runs that failed, and why.")] = False,
    output: Annotated[Path | None, typer.Option(help="The file to write; standard output without it.")] = None,
) -> None:
    """Gather the finished runs below a folder: one row each, filtered, grouped or queried.

    Groups leave out tuning runs unless --where says otherwise by naming `kind`.
    """
    from subspace_tuning.errors import BadInput
    from subspace_tuning.files.aside import write
    from subspace_tuning.sweep import results as gathered

    if sql and (by or where):
        raise BadInput("--sql says it all; leave out --by and --where")
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise BadInput("parquet is no text; name a file with --output")
    say = partial(typer.echo, err=True)
    runs = gathered.gather_failures(folder) if failures else gathered.gather(folder, say)
    table = gathered.query(runs, sql=sql, by=by.split(",") if by else None, where=where)
    written = gathered.write_as(table, form)
    if output is not None:
        write(output, written)
    else:
        typer.echo(written if form == "parquet" else written.decode().rstrip("\n"))
