"""The command that runs the paper's experiments again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command
from subspace_tuning.errors import BadInput, RunFailed

PAPERS = ("si2024",)
Names = Annotated[str | None, typer.Option(help="Names with commas; all of the paper's without it.")]


@command(
    "reproduce",
    examples=[
        "subspace reproduce si2024 --table 2 --tasks rte,stsb --methods full,ssl,ssb --seeds 3",
        "subspace reproduce si2024 --model-path minilm --data path/to/glue --tasks rte,cola --max-hours 8",
        "subspace reproduce si2024 --dry-run > si2024.yaml",
    ],
)
def reproduce(
    paper: Annotated[str, typer.Argument(help="si2024: arXiv:2407.05417.")],
    table: Annotated[
        str | None, typer.Option(help="2, 3 or 4, with commas: RoBERTa-base, DeBERTaV3-base, RoBERTa-large.")
    ] = None,
    models: Names = None,
    tasks: Names = None,
    methods: Names = None,
    ranks: Annotated[str | None, typer.Option(help="Of 2, 4, 8, 16, with commas.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs of each kind.")] = 5,
    max_hours: Annotated[float | None, typer.Option(min=0, help="Begin no run that would end later.")] = None,
    model_path: Annotated[
        str | None, typer.Option(help="Any encoder in place of the paper's: a folder, a hub name, or minilm.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder with rte/, cola/, ...; the hub's GLUE without it.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; as fit this machine without it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the sweep's recipe and run nothing.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of runs and results.")] = Path(
        "runs/si2024"
    ),
) -> None:
    """Run a paper's experiments by its protocol, and judge its claims.

    Prints each score beside the paper's own, and for each claim whether it holds, does not hold, or cannot be told from
    these runs. All 5,800 runs take weeks; every option makes it less. Finished runs are not run again: the same command
    goes on where it stopped. Writes results.json and verdicts.json.
    """
    if paper not in PAPERS:
        raise BadInput(f"no protocol of a paper {paper!r} is known; known is {', '.join(PAPERS)}")
    from subspace_tuning.run.picture import show_table
    from subspace_tuning.study import reproduce as work
    from subspace_tuning.sweep.results import gather

    wanted = work.protocol(
        str(output),
        tables=_numbers(table, "--table"),
        models=_names(models),
        tasks=_names(tasks),
        methods=_names(methods),
        ranks=_numbers(ranks, "--ranks"),
        seeds=seeds,
        model_path=model_path,
        data=None if data is None else str(data),
    )
    size = len(wanted.models) * len(wanted.tasks) * len(wanted.rows) * wanted.seeds
    typer.echo(f"{size:,} runs in {output}", err=True)
    if dry_run:
        typer.echo(wanted.sweep().dump(), nl=False)
        return
    work.check(wanted)
    complete = work.run(wanted, jobs, max_hours, lambda text: typer.echo(text, err=True))
    runs = gather(output)
    if runs.empty:
        raise RunFailed(f"no run came through; see error.txt in the folders below {output}")
    figures, verdicts = work.outcome(wanted, runs)
    header, *rows = work.lines(figures)
    show_table(header, rows)
    for verdict in verdicts:
        typer.echo(f"\n{verdict.verdict.upper():14} {verdict.claim}\n{'':15}{verdict.text}: {verdict.why}")
        typer.echo(f"{'':15}paper: {verdict.paper}")
    typer.echo(f"\nours (the paper's) in %; {output}/results.json and verdicts.json")
    if not complete:
        typer.echo("some runs are missing: the table and the verdicts rest on those that came through", err=True)


def _names(text: str | None) -> list[str]:
    return [] if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str | None, option: str) -> list[int]:
    try:
        return [int(name) for name in _names(text)]
    except ValueError as error:
        raise BadInput(f"{option} takes whole numbers with commas, got {text!r}") from error
