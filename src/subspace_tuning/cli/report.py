"""The command that makes a page of runs: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command
from subspace_tuning.errors import BadInput


@command(
    "report",
    examples=[
        "subspace report runs -o report.html",
        "subspace report runs/demo -o demo.html --analyze 2",
        "subspace report results.parquet -o report.html --title 'MiniLM on GLUE'",
        "subspace report runs/my-sweep --serve",
    ],
)
def report(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|RESULTS", help="A folder of runs, or a table of `subspace results`.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Of the page; the folder's name without it.")] = None,
    analyze: Annotated[int, typer.Option(min=0, help="Add spectra and subspaces of the N best methods' runs.")] = 0,
    floor: Annotated[
        Path | None, typer.Option(help="What `subspace bench step --output` wrote, for the distance from the floor.")
    ] = None,
    advice: Annotated[Path | None, typer.Option(help="What `subspace advise --json` printed before training.")] = None,
    estimate: Annotated[Path | None, typer.Option(help="What `subspace estimate --json` printed.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Follow a running sweep in the browser instead.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve; 0 takes any that is free.")] = 8765,
) -> None:
    """Make one page of many runs, to look at or to send: it needs no network and no server.

    Scores against parameters, tables with intervals, seeds, learning curves, costs, claims with verdicts, and every
    run's config and command. With --serve the page follows the folder, on this machine only.
    """
    from subspace_tuning.cli.progress import counted
    from subspace_tuning.files.aside import write
    from subspace_tuning.report.build import Source

    made_of = Source(source, title, floor, advice, estimate)
    if serve:
        if not source.exists():
            raise BadInput(f"there is no {source} to watch; start the sweep first, or give its output folder")
        _serve(made_of, port)
    elif not output.parent.is_dir():
        raise BadInput(f"cannot write {output}: there is no folder {output.parent}; make it or name another")
    else:
        with counted("looking") as tick:
            page = made_of.build(analyzed=analyze, tick=tick)
        write(output, page)
        typer.echo(f"{output}: {len(page.encode()) / 1e6:.1f} MB")


def _serve(source, port: int) -> None:
    from subspace_tuning.report.serve import server

    with server(source, port) as served:
        typer.echo(f"http://127.0.0.1:{served.server_address[1]}/ follows {source.path}; end it by Ctrl-C")
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended", err=True)
