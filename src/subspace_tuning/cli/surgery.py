"""The command that refines a trained adapter without training: surgery."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command
from subspace_tuning.cli.export import Written, tell
from subspace_tuning.cli.use import Run


@command(
    "surgery",
    examples=[
        "subspace surgery runs/my-run refined-adapter",
        "subspace surgery runs/my-run refined-model --to merged --policy direction",
    ],
    then="`--policy random` is the control: judge both before you believe either.",
)
def surgery(
    run: Run,
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    policy: Annotated[
        str,
        typer.Option(help="smooth or select: by how much the loss depends on each; direction: by which way; random."),
    ] = "smooth",
    batches: Annotated[int, typer.Option(min=1, help="Of training rows, to look at.")] = 8,
    seed: Annotated[int, typer.Option(help="Of --policy random.")] = 0,
    *,
    options: Written,
) -> None:
    """Reweight the singular values of a trained change of weights, by what a few batches say of each.

    Spectral Surgery (arXiv:2603.03995): directions stay, and so does the sum of the singular values; nothing is
    trained. Of any method whose change is a map of the weight; what is written is a LoRA adapter or a merged model.
    """
    from subspace_tuning.convert.surgery import Policy
    from subspace_tuning.convert.surgery import surgery as write

    o = options
    wanted = o.wanted()
    tell(write(run, out, o.to, Policy(policy, seed=seed), wanted, o.base, o.texts(), batches), out, o.as_json)
