"""The command that brings adapters over: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson


@command(
    "import",
    examples=[
        "subspace import path/to/peft-adapter imported/",
        "subspace import runs/old-lora imported/ --json",
    ],
)
def import_(
    adapter: Annotated[
        Path, typer.Argument(metavar="PEFT_ADAPTER", help="The folder of an adapter saved by PEFT.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    base: Annotated[
        str | None, typer.Option(help="The base model, where the adapter does not name it rightly.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite an adapter that PEFT trained as one of ours, which computes the same.

    LoRA (rank-stabilised, DoRA, PiSSA and OLoRA too), (IA)3, AdaLoRA, VeRA and others; `docs/convert.md` has the table.
    Weights are read from safetensors only. The base model is not needed; where it is at hand, names and shapes are
    compared with its own.
    """
    from subspace_tuning.convert import import_peft
    from subspace_tuning.method.registry import to_data

    config, compared = import_peft(adapter, out, base)
    if as_json:
        print_json({"folder": str(out), "method": to_data(config.method), "compared_with": compared})
        return
    typer.echo(
        f"{config.method.describe()}\nwritten to {out}; open it with PeftModel.from_pretrained(model, {str(out)!r})\n"
        + (
            f"names and shapes are those of {compared}"
            if compared
            else "not compared with its base model, which is not at hand: name it with --base"
        )
    )
