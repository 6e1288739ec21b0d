"""Commands that use a finished run: predict, merge."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.cli.progress import counted
from subspace_tuning.errors import BadInput

Run = Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)]
Imports = Annotated[
    list[str] | None, typer.Option("--import", help="A module to import first, for methods from outside the package.")
]

Strength = Annotated[
    float, typer.Option(help="t of phi_t, from the base (0) to the method as it was trained (1), and beyond.")
]


@command(
    "predict",
    examples=[
        "subspace predict runs/my-run 'A lovely film.' 'Two hours I will not get back.'",
        "subspace predict runs/my-run sentences.txt --json",
        "subspace predict runs/my-rte-run $'A man sleeps.\\tSomeone is asleep.'",
    ],
)
def predict(
    run: Run,
    texts: Annotated[
        list[str], typer.Argument(help="Texts, or one file with a text a line; pairs are parted by a tab.")
    ],
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer, for language models.")] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Judge texts by a trained run, or let a language model answer them."""
    from subspace_tuning.run.predict import Predictor, rows_of

    import_all(imports)
    predictor = Predictor(run)
    if max_new_tokens is not None:
        predictor.say_at_most(max_new_tokens)
    found = predictor.answers(rows_of(predictor.task, texts))
    if as_json:
        print_json([{**a._asdict(), "text": a.text[0] if len(a.text) == 1 else a.text} for a in found])
        return
    for a in found:
        answer = f"{a.answer:8.3f}" if isinstance(a.answer, float) else a.answer or ""
        sure = "" if a.score is None else f" {a.score:.3f}"
        typer.echo(f"{answer}{sure}  {' | '.join(a.text)}".rstrip())


@command(
    "merge", examples=["subspace merge runs/my-run merged-model", "subspace merge runs/my-run half-way --strength 0.5"]
)
def merge(
    run: Run,
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    strength: Strength = 1.0,
    streamed: Annotated[bool, typer.Option("--streamed", help="Layer by layer, with the base left on disk.")] = False,
    imports: Imports = None,
) -> None:
    """Write a run as a plain transformers model: phi(W) in the weights, tokenizer and model card beside them."""
    from subspace_tuning.run.merged import merge as write_merged

    import_all(imports)
    if streamed:
        from subspace_tuning.theory.streamed import merge_run

        if strength != 1:
            raise BadInput("--streamed goes with --strength 1 alone; leave one of them out")
        with counted("writing") as tick:
            typer.echo(f"written to {merge_run(run, out, tick)}")
        return
    typer.echo(f"written to {write_merged(run, out, strength)}")


def import_all(modules: list[str] | None) -> None:
    for module in modules or []:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BadInput(f"cannot import {module}: {error}") from error
