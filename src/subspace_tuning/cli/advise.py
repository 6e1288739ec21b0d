"""The command that says before training which methods to try."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.errors import BadInput

if TYPE_CHECKING:
    from subspace_tuning.advise.advice import Advice


@command(
    "advise",
    examples=[
        "subspace advise minilm --budget 0.5% -o recipes/",
        "subspace advise smollm2 --parameters 500000 --serve vllm --memory 8GB",
        "subspace advise roberta-base --task rte --data path/to/glue --page advice.html",
        "subspace advise my-model --data reviews.csv --task classification columns=[text] labels=[bad,good]",
    ],
    then="`subspace sweep recipes/advise-sweep.yaml` tests the short list beside LoRA.",
)
def advise(
    model: Annotated[str, typer.Argument(help="Hub name or folder of a model; minilm and smollm2 are built in.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What else a recipe would say.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Rows to train on, as a recipe's data.")] = None,
    task: Annotated[str | None, typer.Option(help="A kind of task or one known by name; see `subspace tasks`.")] = None,
    budget: Annotated[str | None, typer.Option(help="Share of the model's parameters to train; 1% without it.")] = None,
    parameters: Annotated[int | None, typer.Option(min=1, help="The budget as a number of parameters.")] = None,
    memory: Annotated[str | None, typer.Option(help="What a training step may need, such as 8GB.")] = None,
    speed: Annotated[float | None, typer.Option(min=0, help="Time of a step over the floor, at most.")] = None,
    serve: Annotated[str | None, typer.Option(help="merged, vllm, unmerged or quantised.")] = None,
    keep: Annotated[str | None, typer.Option(help="'forget little': recipes judge what is kept.")] = None,
    methods: Annotated[str | None, typer.Option(help="Whose gradient energy to look at: names with commas.")] = None,
    batches: Annotated[int | None, typer.Option(min=1, help="Of the calibration pass; 4 without it.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder for the recipes.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the advice as a page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say before training which methods and ranks to try, by one pass over a few batches and by what was measured.

    The pass gives the gradient of every weight; from it what each family could reach, and ranks for LoRA. Then what the
    method must be able to do, then measured scores. A short list of three, with reasons.
    """
    from subspace_tuning.advise.advice import advise as made
    from subspace_tuning.advise.energy import CHEAP
    from subspace_tuning.advise.filters import Wanted, budget_of
    from subspace_tuning.advise.gradients import FEW
    from subspace_tuning.advise.page import page as as_page
    from subspace_tuning.advise.recipes import write_all
    from subspace_tuning.cli.estimate import size_of
    from subspace_tuning.cli.progress import counted
    from subspace_tuning.run.recipe import override

    limit = None if memory is None else size_of(memory)
    options = {"model": model, "data": data, "task": task}
    given = override({k: v for k, v in options.items() if v is not None}, words or [])
    given = {"calibration_batches": FEW, **given} | ({"calibration_batches": batches} if batches else {})
    if "method" in given:
        raise BadInput("which method to take is what the advice is about: leave out method=")
    names = CHEAP if methods is None else _known(methods)

    def wanted(total: int) -> Wanted:
        return Wanted(budget_of(budget, parameters, total), serve, limit, speed, keep)

    wanted(10**9)  # raises before the model is read
    with counted("projecting") as tick:
        advice = made(given, wanted, names, tick)
    written = write_all(advice.files, output) if output else []
    if page is not None:
        from subspace_tuning.files.aside import write

        write(page, as_page(advice, f"Which method for {model}"))
    if as_json:
        print_json(advice.to_data())
        return
    _show(advice)
    for path in [*written, *([page] if page else [])]:
        typer.echo(f"written: {path}")


def _known(text: str) -> list[str]:
    from subspace_tuning.errors import as_bad_input
    from subspace_tuning.method.registry import lookup

    names = [name.strip() for name in text.split(",")]
    with as_bad_input():
        for name in names:
            lookup(name)
    return names


def _show(a: Advice) -> None:
    for said in a.words:
        typer.echo(said)
    typer.echo(f"\n{'':18}{'kappa':>8}{'at start':>10}{'parameters':>13}{'permille':>10}")
    for name, kappa, start, parameters, permille in a.reached:
        typer.echo(f"{name:18}{kappa:>8}{start:>10}{parameters:>13}{permille:>10}")
    typer.echo(f"\nLoRA by water-filling: rank_pattern={json.dumps(a.pattern['rank_pattern'])}")
    for place, c in enumerate(a.short, 1):
        typer.echo(f"\n{place}. {c.told}")
        for why in a.reasons(c):
            typer.echo(f"   {why}")
    typer.echo("")
