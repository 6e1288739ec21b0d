"""The command that trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson

if TYPE_CHECKING:
    from subspace_tuning.run.recipe import Recipe


@command(
    "train",
    examples=[
        "subspace train",
        "subspace train --model roberta-base --task cola --method ssb",
        "subspace train --method lora --set r=4 --set alpha=8 --mpc o seed=1 epochs=5",
        "subspace train recipes/rte.yaml method='ssb|lora' method.r=2 data=path/to/glue",
        "subspace train --model smollm2",
        "subspace train --task classification data=reviews.csv columns=[text] labels=[bad,good]",
    ],
    then="`subspace predict RUN TEXT` uses it, `subspace analyze RUN` looks at what training did, "
    "`subspace export RUN OUT` makes it a plain LoRA or a merged model.",
)
def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE.yaml] [KEY=VALUE]...", help="A recipe file and changes to it."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Hub name or folder; without it the offline MiniLM.")] = None,
    task: Annotated[str | None, typer.Option(help="A kind of task or one known by name; see `subspace tasks`.")] = None,
    method: Annotated[
        str | None, typer.Option(help="A method's name, a|b, package.module:Class, full, head or none.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="The method's rank r.")] = None,
    fields: Annotated[list[str] | None, typer.Option("--set", help="A field of the method, such as r=8.")] = None,
    mpc: Annotated[str | None, typer.Option(help="Hold A and B to a pattern: o, d or n.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of head, method and order of the data.")] = None,
    output: Annotated[str | None, typer.Option(help="The run's folder; without it one under runs/.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Start over what is finished or interrupted.")] = False,
    floor: Annotated[bool, typer.Option("--floor", help="Also time a step against the frozen floor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model as a recipe says, and judge it.

    Everything can be said in a recipe file, as key=value, or by the options, the later winning over the earlier. A run
    is a folder: config.yaml, metrics.jsonl, adapter/ and result.json. An interrupted run goes on from its last
    checkpoint; a finished one is not run again unless --again.
    """
    from subspace_tuning.run.recipe import make, override, read

    words = list(words or [])
    data: dict[str, Any] = read(Path(words.pop(0))) if words and "=" not in words[0] else {}
    options = {"model": model, "task": task, "method": method, "mpc": mpc, "seed": seed, "output": output}
    data |= {key: value for key, value in options.items() if value is not None}
    data |= {"floor": True} if floor else {}
    of_method = [*(fields or []), *([] if rank is None else [f"r={rank}"])]
    recipe = make(override(data, [*words, *(f"method.{field}" for field in of_method)]))

    from subspace_tuning.cli.progress import Progress
    from subspace_tuning.run.folder import RunFolder
    from subspace_tuning.run.processes import is_first
    from subspace_tuning.run.train import run

    result = run(recipe, again=again, callbacks=[Progress()] if is_first() else [], say=_say, beforehand=_foretell)
    if not is_first():
        return
    if as_json:
        print_json(vars(result))
        return
    if result.floor_ratio is not None:
        typer.echo(f"a step takes {result.floor_ratio:.2f} of the floor")
    for label, verdict in result.verdicts.items():
        typer.echo(f"{label}: {verdict['metric']} {verdict['value']:.4f} on {verdict['rows']} rows")
    for label, change in result.retention.items():
        before, after = (change[when] for when in ("before", "after"))
        typer.echo(f"{label}: {change['metric']} {before:.4f} before, {after:.4f} after")
    typer.echo(
        f"{result.metric} {result.score:.4f} ({result.checkpoint} checkpoint) with {result.trainable:,} parameters, "
        f"{result.permille:.2f} per mille of {result.model}\n{RunFolder.of(recipe.resolved()).path}"
    )


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _foretell(recipe: Recipe, rows: Sequence[Any]) -> None:
    """Say what the run will need; a model that cannot be traced is trained all the same."""
    from subspace_tuning.bench import memory
    from subspace_tuning.run.estimate import of_recipe, told

    try:
        needs = of_recipe(recipe, rows)
    except Exception as error:
        _say(f"what it needs could not be told beforehand: {str(error).splitlines()[0] if str(error) else error!r}")
    else:
        if needs is not None:
            _say(told(needs, memory.available() + needs.own))
