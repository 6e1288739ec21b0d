"""A command that looks into a model: modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson

if TYPE_CHECKING:
    from subspace_tuning.tuner.sheet import Aside, Block, Line, Sheet


SHOWN = 8
HEADINGS = ["name", "role", "W: n x m", "kinds of place"]


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

    Nothing is loaded: a config.json alone will do, and the model has the head that it names. The names are what
    target_modules takes; a weight W is n x m, for n inputs and m outputs.
    """
    from subspace_tuning.run.skeleton import of_config
    from subspace_tuning.tuner.budget import config_of
    from subspace_tuning.tuner.sheet import sheet

    found = sheet(of_config(config_of(model)))
    if as_json:
        print_json(found.to_data())
    else:
        typer.echo("\n".join(_tree(found)))


def _tree(found: Sheet) -> list[str]:
    told = [found.model]
    told += [line for block in found.blocks for line in _block(block)]
    if found.head:
        told.append(f"head, trained whole or not at all: {', '.join(found.head)}")
    for source in dict.fromkeys(found.tied.values()):
        sharing = ", ".join(name for name, own in found.tied.items() if own == source)
        told.append(f"tied, the same numbers: {source}, {sharing}")
    return [*told, "", *([found.advice] if found.advice else _defaults(found))]


def _defaults(found: Sheet) -> list[str]:
    """Kinds of place, who goes there, and what there is of it."""
    from subspace_tuning.tuner.sheet import by_kind
    from subspace_tuning.tuner.targets import BIASES

    told = ["What methods take when nothing is named (--json names all of them):"]
    for kind, methods in by_kind().items():
        if not methods or kind not in (*found.defaults, BIASES):
            continue
        more = f" and {len(methods) - SHOWN} more" if len(methods) > SHOWN else ""
        names = "every layer outside the head that has a bias" if kind == BIASES else _named(found.defaults[kind])
        told.append(f"  {kind:16} by {', '.join(methods[:SHOWN])}{more}: {names}")
    return told


def _named(names: list[str] | str) -> str:
    return f'target_modules=r"{names}"' if isinstance(names, str) else f"target_modules={names}"


def _block(block: Block) -> list[str]:
    """A kind of block as a tree: its parts, and below them its weights, numbered ones that are alike once."""
    parts: dict[str, list[list[str]]] = {}
    for name, line in _folded(block.lines):
        parts.setdefault(line.part, []).append(_told(name, line))
    for name, own in _folded(block.beside):
        some = f", in {own.blocks} of {block.count}" if own.blocks < block.count else ""
        parts.setdefault("beside them", []).append(_told_beside(name, own, some))
    alike = f", one of {block.count} that are alike" if block.count > 1 else ""
    aside = "" if block.by_default else "; another tower: only when named"
    rows = [HEADINGS, *(row for rows in parts.values() for row in rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    told = [f"{block.name}{alike}{aside}", f"        {_aligned(HEADINGS, widths)}"]
    for part, cells in parts.items():
        last = part == list(parts)[-1]
        told.append(f"{'`--' if last else '|--'} {part}")
        start = "   " if last else "|  "
        told += [f"{start} {'`--' if row is cells[-1] else '|--'} {_aligned(row, widths)}" for row in cells]
    return told


def _aligned(row: list[str], widths: list[int]) -> str:
    return "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])


T = TypeVar("T", "Line", "Aside")


def _folded(lines: tuple[T, ...]) -> Iterator[tuple[str, T]]:
    """The lines by name; those that differ by a number alone as one, with a star for it."""
    same: dict[T, list[T]] = {}
    for line in lines:
        same.setdefault(replace(line, name=_numberless(line.name)), []).append(line)
    for folded, own in same.items():
        yield (folded.name if len(own) > 1 else own[0].name), own[0]


def _told(name: str, line: Line) -> list[str]:
    size = f"{line.copies} x {line.n} x {line.m}" if line.copies > 1 else f"{line.n} x {line.m}"
    notes = [", ".join(line.kinds) or "none: only when named"]
    if line.fused is not None:
        run = ", ".join(f"{role} {width}" for role, width in line.fused.run)
        notes.append(f"its columns: {run}" + (f", {line.fused.groups} times" if line.fused.groups > 1 else ""))
    if not line.is_layer:
        notes.append("one parameter of all experts")
    return [name, line.role or "-", size, "; ".join(notes)]


def _told_beside(name: str, own: Aside, some: str) -> list[str]:
    note = "none: only when named" if own.is_layer else "a parameter of no layer: no method sits there"
    return [name, "-", " x ".join(map(str, own.shape)), note + some]


def _numberless(name: str) -> str:
    """Numbers of layers as stars: experts.expert_3.wi -> experts.expert_*.wi."""
    return re.sub(r"(?<![^._])\d+(?=\.)", "*", name)
