"""The command that judges a run along the strength of its method: curve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.cli.use import Imports, Run, import_all
from subspace_tuning.errors import BadInput


@command(
    "curve",
    examples=["subspace curve runs/my-run", "subspace curve runs/my-run --strengths 0,0.5,1,1.5,2 -o looks/dial"],
    then="`subspace merge RUN OUT --strength T` writes the model at a strength, `subspace export` an adapter.",
)
def curve(
    run: Run,
    strengths: Annotated[str, typer.Option(help="Numbers with commas.")] = "0,0.25,0.5,0.75,1,1.25",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder for curve.json and the picture; the run's own without it."),
    ] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Judge a run at several strengths t of its method, from the base (0) to what was trained (1), and beyond.

    Points that curve.json has already are kept. A classification head is the trained one at every strength.
    """
    from subspace_tuning.run.curve import FILE, measure

    import_all(imports)
    try:
        wanted = [float(t) for t in strengths.split(",")]
    except ValueError:
        raise BadInput(f"--strengths takes numbers with commas, such as 0,0.5,1; got {strengths!r}") from None
    found = measure(run, wanted, output, say=(lambda text: None) if as_json else typer.echo)
    if as_json:
        print_json(found.to_data())
        return
    typer.echo(f"best: {found.says()}\nwritten to {(output or run) / FILE}, with a picture beside it")
