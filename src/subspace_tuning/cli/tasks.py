"""The command that lists kinds of tasks."""

from __future__ import annotations

from typing import Any

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson


@command("tasks", examples=["subspace tasks", "subspace tasks --json"])
def tasks(as_json: AsJson = False) -> None:
    """List every kind of task: what a row of its data is, what a recipe says of it, how it is judged."""
    from subspace_tuning.tasks.registry import KNOWN, kinds

    told: list[dict[str, Any]] = [
        {
            "kind": name,
            "row": kind.row,
            "keys": kind.keys(),
            "metrics": list(kind.metrics),
            "head": kind.head,
            "task_type": kind.task_type,
            "known": [task.name for task in KNOWN.values() if type(task) is kind],
        }
        for name, kind in kinds().items()
    ]
    if as_json:
        print_json(told)
        return
    for t in told:
        typer.secho(t["kind"], bold=True)
        typer.echo(f"  a row     {t['row']}")
        typer.echo(f"  recipe    {', '.join(t['keys'])}")
        metrics = ", ".join(t["metrics"]) or "those of its judgements"
        typer.echo(f"  metrics   {metrics} (the first unless metric says another)")
        typer.echo(f"  head      {t['head']}{', ' + t['task_type'] + ' for PEFT' if t['task_type'] else ''}")
        if t["known"]:
            typer.echo(f"  by name   {', '.join(t['known'])}")
    typer.echo("\ndata: a folder with train.* and validation.*, or one file: parquet, csv, tsv, jsonl or json.")
