"""The command that makes many runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from subspace_tuning.cli.command import command
from subspace_tuning.errors import BadInput


@command(
    "sweep",
    examples=[
        "subspace sweep recipes/sweep.yaml --dry-run",
        "subspace sweep recipes/sweep.yaml --jobs 2 --max-hours 8",
        "subspace sweep study.yaml --engine ray --address auto --gpus 0.5",
    ],
)
def sweep(
    recipe: Annotated[Path, typer.Argument(help="The sweep's YAML file: axes, exclusions, tuning.")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side; as many as cores or GPUs, and memory, allow.")
    ] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster; auto for the one this is part of.")] = None,
    cpus: Annotated[float, typer.Option(min=0.1, help="With Ray: cores of a run.")] = 1.0,
    gpus: Annotated[
        float | None,
        typer.Option(min=0.0, help="GPUs of a run, 0.5 for two on one; what gpus_per_run says without it."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so long; the same command goes on from there.")
    ] = None,
) -> None:
    """Run what is missing of a sweep: every model x task x method x rank x seed, learning rates tuned fairly.

    The same command goes on where an earlier one stopped, for whatever reason; finished runs are not run again, and a
    failed one never stops the others. Each run is a folder, its name the hash of its config and of the versions.
    """
    from subspace_tuning.run.pretrained import check_inputs
    from subspace_tuning.sweep.pool import LocalPool, Pool, usual_jobs
    from subspace_tuning.sweep.recipe import make, read_sweep
    from subspace_tuning.sweep.sweep import Sweep

    if engine == "local" and address:
        raise BadInput("--address is for --engine ray; leave it out")
    given = read_sweep(recipe)
    if gpus is not None:
        given = make({**given.model_dump(exclude_unset=True), "gpus_per_run": gpus or None})
    work, gpus = Sweep(given), given.gpus_per_run or 0.0
    if engine == "local" and any(stage.missing for stage in work.stages()):
        check_inputs(cell.some for cell in work.plan.cells)
    if dry_run:
        _tell_stages(work.stages())
        for cell in work.plan.cells:
            typer.echo(f"  {cell}")
        return

    def pool() -> Pool:
        if engine == "ray":
            from subspace_tuning.sweep.ray import RayPool

            return RayPool(work.plan.folder, address, jobs, cpus, gpus)
        models = sorted({cell.some.model for cell in work.plan.cells})
        room = usual_jobs(models, gpus)
        return LocalPool(work.plan.folder, min(jobs, room) if jobs and gpus else jobs or room, gpus=gpus)

    with _live() as changed:
        summary = work.run(pool, changed, max_hours)
    _tell_stages(summary.stages)
    for name, said in summary.failed.items():
        typer.echo(f"failed: {name}: {said}", err=True)
    for cell_name in summary.without_rate:
        typer.echo(f"no learning rate: every tuning run of {cell_name} failed", err=True)
    if summary.time_is_up:
        typer.echo("the time is up; the same command goes on", err=True)
    typer.echo(f"{work.plan.folder}: see it with `subspace results {work.plan.folder} --by method,task`")
    if summary.failed or summary.without_rate:
        raise typer.Exit(1)


def _tell_stages(stages: list[Any]) -> None:
    for s in stages:
        failed = f", {s.failed} failed before" if s.failed else ""
        typer.echo(f"{s.name}: {s.total} runs, {s.finished} finished, {s.missing} missing{failed}")


@contextmanager
def _live() -> Iterator[Callable[[Any, Any, Any], None]]:
    """A table that follows the sweep; where standard error is a file, a line for each run that ended."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    shown: list[Any] = []

    def table() -> Any:
        return _table(shown[-1]) if shown else "starting the workers"

    with Live(console=console, refresh_per_second=2, transient=True, get_renderable=table):
        yield lambda progress, run, outcome: shown.__setitem__(slice(None), [progress])


def _line(progress: Any, run: Any, outcome: Any) -> None:
    if outcome is not None and outcome.status != "busy":
        told = f"{outcome.score:.4f}" if outcome.score is not None else outcome.said
        typer.echo(f"{_count(progress)}  {run.name}  {outcome.status} {told}", err=True)


def _table(progress: Any) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=_count(progress), title_justify="left", box=None, show_header=False)
    for name, since in list(progress.running.items()):
        table.add_row("running", Text(name), f"{time.monotonic() - since:.0f} s")
    for name, said in list(progress.failed.items())[-5:]:
        table.add_row("[red]failed[/red]", Text(name), Text(said))
    return table


def _count(progress: Any) -> str:
    left = progress.seconds_left
    when = "" if left is None else f", {_duration(left)} left"
    failed = f", {len(progress.failed)} failed" if progress.failed else ""
    return f"{progress.finished}/{progress.total}{failed}{when}"


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
