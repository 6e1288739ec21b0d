"""Commands that look: methods, budget."""

from __future__ import annotations

from inspect import cleandoc
from itertools import groupby
from typing import Annotated, Any

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.errors import BadInput, as_bad_input

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the layers, each with a few of its tensors.")]


@command("methods", examples=["subspace methods", "subspace methods flora", "subspace methods --json"])
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with what it contains and what contains it.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every method: its equation, what it costs and where it is from; or tell of one."""
    from subspace_tuning.method.catalogue import catalogue
    from subspace_tuning.method.registry import lookup
    from subspace_tuning.methods.relations import relations_of

    with as_bad_input():
        wanted = None if name is None else lookup(name).name
    entries = [entry for entry in catalogue() if wanted in (None, entry.name)]
    if as_json:
        print_json([entry.to_data() | {"relations": relations_of(entry.name)} for entry in entries])
        return
    if wanted is not None:
        told = cleandoc(lookup(wanted).__doc__ or "")
        lines = [f"{wanted}: {told}", f"parameters: {entries[0].parameters}", *entries[0].abilities]
        typer.echo("\n".join([*lines, *relations_of(wanted)]))
        return
    for (category, mode), group in groupby(entries, key=lambda e: (e.category, e.mode)):
        typer.secho(category + (f", mode {mode}" if mode else ""), bold=True)
        for e in group:
            told = ", ".join([f"{e.parameters} parameters a {e.sits_on}", *e.abilities, e.paper])
            typer.echo(f"  {e.name:12} {e.equation}\n{'':15}{told}")
    typer.echo("\nn inputs, m outputs, rank r, k = min(n, m); a|b composes two methods, as in 'ssb|lora'.")


@command(
    "budget",
    examples=[
        "subspace budget roberta-base --method ssb",
        "subspace budget path/to/config.json --method lora --rank 2 --json",
        "subspace budget minilm --method 'ssb|lora' --rank 2",
    ],
)
def budget(
    model: Annotated[str, typer.Argument(help="Hub name, folder or config.json of a model; minilm is built in.")],
    method: Annotated[str, typer.Option(help="A method's name, a|b, package.module:Class, or full.")],
    rank: Annotated[int | None, typer.Option(help="The method's rank r.")] = None,
    target_modules: Annotated[
        str | None, typer.Option(help="Names with commas, a regular expression, or all-linear.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count what a method would train on a model, without loading a weight.

    The classification head, which every method trains, is not counted.
    """
    from subspace_tuning.run.recipe import FULL
    from subspace_tuning.tuner.budget import budget as count
    from subspace_tuning.tuner.config import SubspaceConfig

    if method == FULL and (rank is not None or target_modules is not None):
        raise BadInput("full fine-tuning trains every weight; leave out --rank and --target-modules")
    fields: dict[str, Any] = {} if rank is None else {"r": rank}
    with as_bad_input():
        config = (
            None
            if method == FULL
            else SubspaceConfig(method=method, target_modules=modules_named(target_modules), **fields)
        )
    counts = count(model, config)
    if as_json:
        print_json({"trainable": counts.trainable, "total": counts.total, "permille": counts.permille})
        return
    typer.echo(f"trainable {counts.trainable:,}\ntotal     {counts.total:,}\npermille  {counts.permille:.3f}")


def modules_named(text: str | None) -> list[str] | str | None:
    """``a,b`` are names, one plain word is a name too; anything else is a regular expression or all-linear."""
    if text is None or text == "all-linear":
        return text
    names = text.split(",")
    plain = all(name.replace(".", "").replace("_", "").isalnum() for name in names)
    return names if plain else text
