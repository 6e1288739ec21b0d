"""The command that shows it all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command


@command("demo", examples=["subspace demo", "subspace demo --quick"])
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A few steps only: shows that everything runs.")] = False,
    output: Annotated[Path, typer.Option(help="Where the runs, the table and the picture go.")] = Path("runs/demo"),
    workers: Annotated[int | None, typer.Option(help="Runs side by side; without it one a core, four at most.")] = None,
) -> None:
    """Fine-tune a real model on real data by eleven methods, and compare them in a table and a picture."""
    from subspace_tuning.run.demo import show

    show(quick, output, workers)
