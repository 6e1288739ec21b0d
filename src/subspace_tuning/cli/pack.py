"""The command that trains several recipes side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.errors import BadInput


@command("pack", examples=["subspace pack ssb.yaml lora.yaml dora.yaml", "subspace pack *.yaml epochs=5 --json"])
def pack(
    words: Annotated[
        list[str], typer.Argument(metavar="RECIPE.yaml... [KEY=VALUE]...", help="Recipes, and changes to all of them.")
    ],
    again: Annotated[bool, typer.Option("--again", help="Start over what is finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train several adapters side by side over one frozen model, their batches joined.

    Methods, ranks, learning rates and seeds may differ; model, data and max_length are shared. Every run leaves the
    folder that `subspace train` would; it is judged when it ends, not in between.
    """
    from subspace_tuning.run.recipe import make, override, read

    files = [word for word in words if "=" not in word]
    if not files:
        raise BadInput(f"pack trains recipe files, got only changes to them: {' '.join(words)}")
    changes = [word for word in words if "=" in word]
    recipes = [make(override(read(Path(file)), changes)) for file in files]

    from subspace_tuning.run.packed import train_packed

    results = train_packed(recipes, again=again, say=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json([vars(result) for result in results])
        return
    for result in results:
        told = f"{result.metric} {result.score:.4f} with {result.trainable:,} parameters"
        typer.echo(f"{result.method} seed {result.seed}: {told}, {result.permille:.2f} per mille")
