"""A command that looks into a model: modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson

if TYPE_CHECKING:
    from subspace_tuning.tuner.sheet import Block, Line


SHOWN = 8


@command(
    "modules",
    examples=["subspace modules minilm", "subspace modules path/to/config.json --json"],
    then="`subspace budget MODEL --method lora --target-modules NAME,NAME` counts what a choice would train.",
)
def modules(
    model: Annotated[str, typer.Argument(help="Hub name, folder or config.json of a model; minilm is built in.")],
    as_json: AsJson = False,
) -> None:
    """Show the blocks of a model: what each weight is for, and which methods take it when no modules are named.

    Nothing is loaded: a config.json alone will do. The names are what target_modules takes.
    """
    from subspace_tuning.tuner.budget import skeleton
    from subspace_tuning.tuner.sheet import by_kind, sheet

    found = sheet(skeleton(model))
    if as_json:
        print_json(found.to_data())
        return
    typer.secho(found.model, bold=True)
    for block in found.blocks:
        _show(block)
    if found.head:
        typer.echo(f"head, trained whole or not at all: {', '.join(found.head)}")
    for name, source in found.tied.items():
        typer.echo(f"{name} shares its numbers with {source}")
    typer.echo("\nWhat is taken when nothing is named:")
    for kind, methods in by_kind().items():
        names = dict.fromkeys(x.name for b in found.blocks if b.by_default for x in b.lines if kind in x.kinds)
        if names and methods:
            more = f" and {len(methods) - SHOWN} more" if len(methods) > SHOWN else ""
            typer.echo(f"  {kind:16} by {', '.join(methods[:SHOWN])}{more}: target_modules={list(names)}")


def _show(block: Block) -> None:
    """A kind of block as a tree: its parts, and below them its weights."""
    aside = "" if block.by_default else " (another tower: only when named)"
    typer.echo(f"{block.name} x {block.count}{aside}")
    parts = list(dict.fromkeys(line.part for line in block.lines))
    for part in parts:
        last = part == parts[-1]
        typer.echo(f"{'`--' if last else '|--'} {part}")
        for line in block.lines:
            if line.part == part:
                typer.echo(f"{'   ' if last else '|  '} |-- {_told(line)}")


def _told(line: Line) -> str:
    size = f"{line.copies} x " if line.copies > 1 else ""
    told = f"{line.name:34} {line.role or '-':16} {size}{line.n} x {line.m}"
    notes = [", ".join(line.kinds) or "none by default"]
    if line.fused is not None:
        run = ", ".join(f"{role} {width}" for role, width in line.fused.run)
        notes.append(f"columns: {line.fused.groups} x ({run})")
    if not line.is_layer:
        notes.append("one parameter of all experts")
    return f"{told:66} {'; '.join(notes)}"
