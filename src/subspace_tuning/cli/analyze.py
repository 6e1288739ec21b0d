"""The command that looks at what training did: analyze."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson, Workers
from subspace_tuning.cli.use import Imports, import_all
from subspace_tuning.errors import BadInput, few


@command(
    "analyze",
    examples=[
        "subspace analyze runs/my-run -o looks/my-run",
        "subspace analyze my-adapter --versus same-with-another-seed -o looks/seeds",
        "subspace analyze fine-tuned-model --base base-model --layers 'query|value' --json",
    ],
    then="`subspace fit BASE FINETUNED` says how near each family could come to a full fine-tune, "
    "`subspace export RUN OUT` makes a run what others can load.",
)
def analyze(
    given: Annotated[
        str, typer.Argument(metavar="ADAPTER|FINETUNED", help="A run, an adapter or a model.", show_default=False)
    ],
    base: Annotated[str | None, typer.Option(help="What a fine-tuned model started from.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for analysis.json and the pictures.")
    ] = None,
    versus: Annotated[
        Path | None, typer.Option(help="Another training of the same base, to compare subspaces.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="A fully fine-tuned model W*: tells the optimal scale s* of each change.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Leading singular vectors that are compared.")] = 8,
    layers: Annotated[str | None, typer.Option(help="A regular expression that finds names of layers.")] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Scales of intruder dimensions to try, with commas, '' for none; without it four, where the model "
            "takes less than half of the free memory."
        ),
    ] = None,
    workers: Workers = 1,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Look at what training did to each weight: spectra, turned subspaces, ranks, intruders, inside or outside span(W).

    Angles are in degrees. A reconstruction stays inside the span of W, an extension leaves it.
    """
    from subspace_tuning.cli.progress import counted
    from subspace_tuning.theory.analyze import Look, save
    from subspace_tuning.theory.analyze import analyze as look_at

    try:
        tried = None if scales is None else tuple(float(x) for x in scales.split(",") if x.strip())
    except ValueError:
        raise BadInput(f"--scales are numbers with commas, got {scales!r}") from None
    if not all(map(math.isfinite, tried or ())):
        raise BadInput(f"--scales are finite numbers, got {scales!r}")
    import_all(imports)
    with counted("looking") as tick:
        data = look_at(given, base, versus, target, Look(r=rank, scales=tried, layers=layers), tick, workers, output)
    written = save(data, output) if output is not None else []
    if as_json:
        print_json(data)
        return
    typer.echo(f"{'':44}{'change':>9}{'rank':>7}{'turn':>7}{'inside':>8}{'chance':>8}{'intruders':>11}")
    for name, x in data["layers"].items():
        turn = max(x["angles"]["left"] + x["angles"]["right"])
        share = x["inside"]
        typer.echo(
            f"{name[-43:]:44}{x['relative_change']:9.4f}{x['stable_rank']['change']:7.2f}{turn:7.1f}"
            f"{share['share']:8.3f}{share['chance']:8.3f}{len(x['intruders']):11}"
        )
    if data["left_out"]:
        typer.echo(f"changed, but no matrix of a layer: {few(data['left_out'])}")
    if why := data.get("scaling_intruders_left_out"):
        typer.echo(f"what intruders do to the answers was not tried: {why}")
    if "versus" in data:
        alike = list(data["versus"]["layers"].values())
        left, right = (sum(x[side] for x in alike) / len(alike) for side in ("left", "right"))
        typer.echo(f"subspaces of {versus} are alike by {left:.3f} (left) and {right:.3f} (right)")
    if written:
        typer.echo(f"written to {output}: {', '.join(path.name for path in written)}")
