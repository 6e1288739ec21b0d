"""Commands of the leaderboard: run the fixed protocol with one method, check entries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import app, command
from subspace_tuning.errors import RunFailed

leaderboard_app = typer.Typer(
    name="leaderboard", help="Methods by one fixed protocol: MiniLM on four tasks of GLUE.", no_args_is_help=True
)
app.add_typer(leaderboard_app)


@command(
    "run",
    group=leaderboard_app,
    examples=[
        "subspace leaderboard run ssb",
        "subspace leaderboard run lora --set r=8 --data path/to/glue --max-hours 1",
        "subspace leaderboard run mypackage.mymodule:MyMethod --by 'A. Person, arXiv:0000.00000'",
    ],
)
def run(
    method: Annotated[str, typer.Argument(help="A method's name, a|b, or package.module:Class.")],
    fields: Annotated[list[str] | None, typer.Option("--set", help="A field of the method, such as r=8.")] = None,
    by: Annotated[str, typer.Option(help="Whose entry: a name, a paper's or code's address.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="A folder with rte/, cola/, ...; as the recipe says without it.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; as fit this machine without it.")] = None,
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; the same command goes on.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of runs.")] = Path("runs/leaderboard"),
    into: Annotated[Path, typer.Option(help="The folder of entries.")] = Path("leaderboard"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the sweep's recipe and run nothing.")] = False,
) -> None:
    """Run the protocol of the leaderboard with one method, and write its entry: 24 short runs.

    Four tasks, three learning rates each (0.3, 1 and 3 times the method's own) chosen by held-out training rows, three
    seeds. The entry is a JSON file with every run's score; a pull request with it puts the method on the page.
    """
    from subspace_tuning.files.aside import write
    from subspace_tuning.run.recipe import make, override
    from subspace_tuning.study import leaderboard
    from subspace_tuning.study.reproduce import perform
    from subspace_tuning.sweep.results import gather

    recipe = make(override({"method": method}, [f"method.{field}" for field in fields or []]))
    folder = output / Path(leaderboard.file_name(recipe.method_label)).stem
    wanted = leaderboard.protocol([recipe.method], str(folder), None if data is None else str(data))
    if dry_run:
        typer.echo(wanted.dump(), nl=False)
        return
    if not perform(wanted, jobs, max_hours, lambda text: typer.echo(text, err=True)):
        raise RunFailed(f"some runs are missing in {folder}, so that there is no entry yet; the same command goes on")
    found = leaderboard.entry(gather(folder), recipe.method_label, by)
    leaderboard.check(found, wanted)
    path = into / leaderboard.file_name(found.method)
    into.mkdir(parents=True, exist_ok=True)
    write(path, leaderboard.written(found))
    typer.echo(
        f"{path}: {100 * found.mean:.2f} % over {len(found.means)} tasks; `make docs` shows it in docs/leaderboard.md"
    )


@command("check", group=leaderboard_app, examples=["subspace leaderboard check"])
def check(folder: Annotated[Path, typer.Argument(help="The folder of entries.")] = Path("leaderboard")) -> None:
    """Check that entries are of the protocol and that what they say follows from their runs; print them as a table."""
    from subspace_tuning.study import leaderboard

    entries = leaderboard.read(folder)
    study = leaderboard.protocol(["ssb"], "runs/leaderboard")
    for found in entries:
        leaderboard.check(found, study)
    typer.echo(leaderboard.board(entries), nl=False)
