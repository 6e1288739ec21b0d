"""The command that shows what would be read of data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.errors import BadInput

if TYPE_CHECKING:
    from subspace_tuning.files.table import Table
    from subspace_tuning.tasks.overview import Column, Overview, Part

PARTS = ("train", "validation", "dev", "val", "test")  # of a folder
SHOWN = 40  # letters of an example


@command(
    "data",
    examples=[
        "subspace data tickets.csv",
        "subspace data tickets.csv --task classification labels=[question,complaint]",
        "subspace data tickets.csv --task classification labels=[question,complaint] encoding=cp1252 max_length=64",
        "subspace data path/to/glue --task rte --model roberta-base --json",
        "subspace data recipes/own_data.yaml data=tickets.csv",
    ],
    then="`subspace train` takes the same words.",
)
def data(
    words: Annotated[
        list[str],
        typer.Argument(metavar="DATA|RECIPE.yaml [KEY=VALUE]...", help="A file or folder, or a recipe that names one."),
    ],
    task: Annotated[str | None, typer.Option(help="A kind of task or one known by name; see `subspace tasks`.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose tokenizer counts, and which must read the rows; else the offline MiniLM's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would be read of data: its columns and, for a task, rows, labels, lengths in tokens, duplicates.

    Nothing is trained, and of the model only config and tokenizer are read. Rows are read as `subspace train` reads
    them, and what it would refuse is refused here, with the line.
    """
    from subspace_tuning.run.recipe import make, override, read
    from subspace_tuning.tasks.overview import columns_of

    first, *changes = words
    is_recipe = Path(first).suffix in (".yaml", ".yml")
    told: dict[str, Any] = read(Path(first)) if is_recipe else {"data": first}
    told |= {key: value for key, value in (("task", task), ("model", model)) if value is not None}
    told = override(told, changes)
    recipe = make(told)
    tables = _tables(recipe.data, recipe.encoding, told.get("task"))
    columns = {table.name: (len(table), columns_of(table)) for table in tables}
    if not as_json:
        for name, (size, held) in columns.items():
            _show_columns(name, size, held)
    if "task" not in told:
        if as_json:
            print_json(_data(columns, None))
        else:
            typer.echo("\nwith --task, and what a recipe says of it (labels=[...]): also labels, tokens and duplicates")
        return
    found = _overview(recipe, is_named="model" in told)
    if as_json:
        print_json(_data(columns, found))
    else:
        _show(found, recipe.task)


def _tables(source: str | None, encoding: str, task: str | None) -> list[Table]:
    """The tables of a file or folder; for a task those that have a form which many kinds read."""
    from subspace_tuning.files.attached import ARRAYS
    from subspace_tuning.files.conll import SUFFIXES as CONLL
    from subspace_tuning.files.table import SUFFIXES

    path = Path(source or "").expanduser()
    if task is None and (source is None or not path.exists()):
        said = "no data is named" if source is None else f"there is no data file or folder {path.absolute()}"
        raise BadInput(f"{said}; give a file, a folder, or a recipe that names one")
    folder = path / task if task and (path / task).is_dir() else path
    forms = (*SUFFIXES, *CONLL, ARRAYS)
    named = [folder / f"{part}{suffix}" for part in PARTS for suffix in forms]
    paths = [path] if source and path.is_file() else [file for file in named if source and file.is_file()]
    if task is None and not paths:
        raise BadInput(
            f"{path} has no rows: expected a file {', '.join(PARTS)} that ends in {', '.join(forms)}; of folders of "
            "pictures or sounds say what they are for, such as --task image_classification"
        )
    return [_table(file, encoding) for file in paths if task is None or file.suffix in forms]


def _table(path: Path, encoding: str) -> Table:
    """A file of rows in whichever form."""
    from subspace_tuning.files.attached import ARRAYS, arrays
    from subspace_tuning.files.conll import SUFFIXES as CONLL
    from subspace_tuning.files.conll import read_conll
    from subspace_tuning.files.table import read_table
    from subspace_tuning.tasks.question_answering import squad

    if path.suffix in CONLL:
        return read_conll(path, "tokens", "tags", encoding)
    if path.suffix == ARRAYS:
        return arrays(path)
    own = squad(path, encoding) if path.suffix == ".json" else None
    return read_table(path, encoding) if own is None else own


def _overview(recipe: Any, is_named: bool) -> Overview:
    """is_named: whether somebody chose the model, so that its rows must fit it."""
    from subspace_tuning.run.pretrained import bare_model, load_processor
    from subspace_tuning.tasks import load
    from subspace_tuning.tasks.overview import overview

    task = recipe.task_object()
    keys = ("train_samples", "eval_samples", "hold_out", "encoding")
    rows = load(task, recipe.data, **{key: getattr(recipe, key) for key in keys})
    processor = load_processor(recipe.model, task.processor)
    model = bare_model(recipe.model, task, processor) if is_named else None
    return overview(task, rows, processor, recipe.max_length, model)


def _data(columns: dict[str, tuple[int, list[Column]]], found: Overview | None) -> dict[str, Any]:
    files = {name: {"rows": size, "columns": [asdict(c) for c in held]} for name, (size, held) in columns.items()}
    return {"files": files} | ({} if found is None else found.to_data())


def _show_columns(name: str, size: int, columns: list[Column]) -> None:
    typer.secho(f"{name}: {size:,} rows", bold=True)
    width = max((len(c.name) for c in columns), default=0)
    for c in columns:
        lacks = [f"{c.missing:,} missing"] * (c.missing > 0) + [f"{c.blank:,} blank"] * (c.blank > 0)
        shown = ", ".join(f"{value} {times:,}" for value, times in (c.values or {}).items())
        short = c.example if len(c.example) <= SHOWN else f"{c.example[: SHOWN - 3]}..."
        told = shown if shown and len(shown) < 3 * SHOWN else f"such as {short!r}"
        typer.echo(f"  {c.name:{width}}  {', '.join([*c.holds, *lacks]) or 'nothing'}: {told}")


def _show(found: Overview, task: str) -> None:
    for name, part in (("to train on", found.train), ("to judge by", found.validation)):
        typer.secho(f"{task}, {name}: {part.rows:,} rows", bold=True)
        for line in _lines(part):
            typer.echo(f"  {line}")
    if found.in_training:
        typer.echo(f"  {found.in_training:,} of the rows to judge by have the texts of a row that is trained on")


def _lines(part: Part) -> list[str]:
    lines = []
    if part.labels:
        labels = (f"{name} {n:,}" if n == int(n) else f"{name} {n:.4g}" for name, n in part.labels.items())
        lines.append(f"labels     {', '.join(labels)}")
    if t := part.tokens:
        lines.append(f"tokens     {t.least} to {t.most}, half have {t.median} or fewer, 95 % {t.most_of_95}")
        is_cut = f"{t.longer:,} longer than the {t.limit} that are read" if t.longer else "none is cut"
        lines.append(f"cut        {is_cut}" + (f", {part.inputs:,} inputs" if part.inputs != part.rows else ""))
    if part.special:
        lines.append(f"special    {part.special:,} have a special token of the tokenizer in their texts")
    if part.twice:
        lines.append(
            f"twice      {part.twice:,} have the texts of an earlier row, {part.with_other_label:,} with another label"
        )
    return lines
