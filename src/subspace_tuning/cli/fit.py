"""The command that asks how near a family can come to a fully fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson, Workers
from subspace_tuning.errors import BadInput, few

SAID = 60.0  # seconds from which it is told beforehand how long a fit takes


@command(
    "fit",
    examples=[
        "subspace fit roberta-base my-finetuned-roberta",
        "subspace fit minilm runs/my-full-run --methods ssb,lora,dora --rank 4",
        "subspace fit base-model finetuned-model --save ssb my-adapter",
        "subspace fit base-model finetuned-model --save lora my-adapter --energy 0.9",
        "subspace fit big-base big-finetuned --workers 4",
    ],
    then="`subspace export ADAPTER OUT` makes what --save wrote a plain LoRA or a merged model; `subspace train` "
    "trains the family that reaches far.",
)
def fit(
    base: Annotated[str, typer.Argument(help="The pretrained model: a folder, a hub name, or minilm.")],
    finetuned: Annotated[str, typer.Argument(help="The fully fine-tuned one: a folder, a hub name, or a full run's.")],
    methods: Annotated[
        str | None, typer.Option(help="all, or names with commas, also a|b; with --save the saved one unless told.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="The rank r of the methods that have one.")] = 8,
    layers: Annotated[
        str | None, typer.Option(help="A regular expression on names; all but embeddings and heads without it.")
    ] = None,
    save: Annotated[
        tuple[str, str] | None, typer.Option(metavar="METHOD OUT", help="Write this method's fit as an adapter.")
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="Of LoRA and its kin, in each layer the least rank that captures this share.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where finished layers and the result go; one under runs/ without it.")
    ] = None,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Find how much of a full fine-tune each method could reach: the best parameters, layer by layer, without training.

    Captured energy is 1 - ||W* - phi(W)||^2 / ||W* - W||^2, W* being the fine-tuned weight. Layers are read one at a
    time, so that a large model needs the memory of a few of its weights. An interrupted fit goes on where it stopped.
    """
    import dataclasses

    from subspace_tuning.cli.progress import counted
    from subspace_tuning.errors import as_bad_input
    from subspace_tuning.files.checkpoint import Checkpoint
    from subspace_tuning.theory.extract import extract
    from subspace_tuning.theory.fit import Fit, choose

    if energy is not None and not 0 < energy <= 1:
        raise BadInput(f"--energy is a share in (0, 1], got {energy}")
    names = None if methods in (None, "all") else [n.strip() for n in str(methods).split(",")]
    if save is not None:
        names = [save[0]] if methods is None else names if names is None else [*names, save[0]]
    with as_bad_input():
        chosen, refused = choose(None if names is None else dict.fromkeys(names), rank)
        kept = None if save is None else next((m for m in chosen if m.name == save[0]), None)
    if save is not None and kept is None:
        raise BadInput(f"{save[0]} cannot be saved: {refused.get(save[0], 'it is not among the methods')}")
    before, after = Checkpoint(base), Checkpoint(finetuned)
    work = Fit(before, after, output, energy) if output else Fit.named(before, after, energy)
    if work.damaged:
        typer.echo(f"{work.damaged} damaged lines of {work.folder / 'layers.jsonl'}: computed anew", err=True)
    with counted("fitting") as tick:
        report = dataclasses.replace(work.run(chosen, layers, kept, tick, _foretell, workers), refused=refused)
    if not any(family.fitted for family in report.families) and (changed := report.places.left_out):
        raise BadInput(f"what changed from {base} to {finetuned} is of no layer that was to be fitted: {few(changed)}")
    if save is not None:
        family = next(f for f in report.families if f.method == kept)
        typer.echo(f"written to {extract(work, report, family, save[1])}", err=True)
    if as_json:
        print_json(report.to_data())
        return
    columns = f"{'captured':>9}{'parameters':>12}{'permille':>9}{'a million':>10}{'s*':>7}{'layers':>8}{'minutes':>9}"
    typer.echo(" " * 18 + columns)
    for f in report.families:
        if f.fitted:
            minutes = report.seconds.get(f.method.describe(), 0.0) / 60
            typer.echo(
                f"{f.method.name:18}{f.captured_energy:9.4f}{f.parameters:12,}{f.permille:9.3f}"
                f"{1e6 * f.per_parameter:10.2f}{f.scale:7.3f}{len(f.fitted):8}{minutes:9.2f}"
            )
    for text in _notes(report):
        typer.echo(text)
    typer.echo(f"\ncaptured: 1 - |W* - phi(W)|^2 / |W* - W|^2; a million: captured for 10^6 parameters\n{work.folder}")


def _foretell(seconds: dict[str, float]) -> None:
    if sum(seconds.values()) > SAID:
        each = ", ".join(f"{name} {taken / 60:.1f}" for name, taken in sorted(seconds.items(), key=lambda p: -p[1]))
        typer.echo(f"about {sum(seconds.values()) / 60:.1f} minutes to go: {each}", err=True)


def _notes(report):
    for family in report.families:
        reasons = {fit.skipped for fit in family.layers.values() if fit.skipped}
        if reasons:
            yield f"{family.method.name}: {len(family.layers) - len(family.fitted)} layers left out: {min(reasons)}"
    for name, source in report.places.tied.items():
        yield f"tied: {name} is {source}"
    for name, lost in report.places.missing.items():
        yield f"missing: {name} ({lost})"
    if report.places.left_out:
        yield f"changed, but not fitted: {few(report.places.left_out)}"
    if report.unchanged:
        yield f"unchanged: {len(report.unchanged)} layers, such as {report.unchanged[0]}"
