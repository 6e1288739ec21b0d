"""The command that tells beforehand what training needs."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson, modules_named
from subspace_tuning.errors import BadInput, as_bad_input

if TYPE_CHECKING:
    from subspace_tuning.bench.needs import Needs

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
Count = Annotated[int, typer.Option(min=1)]


@command(
    "estimate",
    examples=[
        "subspace estimate roberta-base --method ssb --batch 32 --length 128",
        "subspace estimate config.json --method lora --dtype bf16 --gradient-checkpointing --tflops 400",
        "subspace estimate config.json --method full --processes 8 --sharding fsdp --fit 80GB",
    ],
    then="`subspace train` prints the estimate of its run before it starts.",
)
def estimate(
    model: Annotated[str, typer.Argument(help="Hub name, folder or config.json of a model; minilm is built in.")],
    method: Annotated[str, typer.Option(help="A method's name, a|b, package.module:Class, full or head.")],
    rank: Annotated[int | None, typer.Option(help="The method's rank r.")] = None,
    target_modules: Annotated[
        str | None, typer.Option(help="Names with commas, a regular expression, or all-linear.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows that one process has at a time.")] = 8,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 512,
    dtype: Annotated[str, typer.Option(help="Of the base: fp32, bf16 or fp16.")] = "fp32",
    autocast: Annotated[bool, typer.Option("--autocast", help="Compute in bf16, as bf16: true of a recipe.")] = False,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw8bit or sgd.")] = "adamw",
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing")] = False,
    gradient_accumulation: Count = 1,
    processes: Count = 1,
    sharding: Annotated[str, typer.Option(help="Of several processes: ddp, fsdp, zero2 or zero3.")] = "ddp",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; without it what is here.")] = None,
    fit: Annotated[str | None, typer.Option(help="Find the largest batch in so much memory, such as 24GB.")] = None,
    tflops: Annotated[
        float | None,
        typer.Option(min=0, help="10^12 FLOPs a second that the device reaches: gives the time of a step."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a training step needs, from the model's config alone: memory by kind, its peak, FLOPs.

    The whole step is traced on tensors that have shapes and no numbers. Rows without padding; what several processes
    share is reckoned.
    """
    import torch

    from subspace_tuning.bench.needs import Setting
    from subspace_tuning.run.estimate import largest_batch, subject, what_helps
    from subspace_tuning.run.recipe import FULL, HEAD
    from subspace_tuning.tuner.config import SubspaceConfig

    fields: dict[str, Any] = {} if rank is None else {"r": rank}
    if method in (FULL, HEAD):
        if fields or target_modules:
            raise BadInput(f"{method} is no method with a rank or modules; leave out --rank and --target-modules")
        what: Any = method
    else:
        fields |= {"method": method, "target_modules": modules_named(target_modules)}
        with as_bad_input():
            SubspaceConfig(**fields)
        what = partial(_config, fields)
    limit = None if fit is None else size_of(fit)
    found = subject(model, what)
    setting = Setting(
        batch=batch,
        length=length,
        dtype=dtype,
        autocast=autocast,
        optimizer=optimizer,
        gradient_checkpointing=gradient_checkpointing,
        gradient_accumulation=gradient_accumulation,
        processes=processes,
        sharding=sharding,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    told = found.at(setting) if limit is None else largest_batch(found, setting, limit)
    helps = list(what_helps(found, setting)) if told is None else []
    if as_json:
        print_json({"estimate": told and _data(told, tflops), "would_help": [_data(n, tflops) for n in helps]})
    elif told is not None:
        _show(told, tflops)
    else:
        typer.echo(f"not one row of {length} tokens fits into {fit}; what helps, one after the other:")
        for n in helps:
            typer.echo(f"  {_changed(n, setting)}: {n.peak / 1e9:.2f} GB")


def _config(fields: dict[str, Any], head: list[str]) -> Any:
    from subspace_tuning.tuner.config import SubspaceConfig

    return SubspaceConfig(**fields, modules_to_save=head or None)


def size_of(text: str) -> int:
    """24GB, 24GiB, 512MB -> bytes."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if found is None or not found[1].replace(".", "", 1).isdigit():
        raise BadInput(f"{text!r} is no amount of memory; say it like 24GB or 80GiB")
    unit = UNITS[found[2].lower()]
    return int(float(found[1]) * (2 ** (10 * list(UNITS).index(found[2].lower())) if found[3] else unit))


def _data(n: Needs, tflops: float | None) -> dict[str, Any]:
    return {**n.to_data(), "seconds": n.seconds(tflops) if tflops else None}


def _show(n: Needs, tflops: float | None) -> None:
    from subspace_tuning.bench.needs import PARTS

    s = n.setting
    typer.echo(f"batch {s.batch} x {s.length}; {n.trained:,} of {n.parameters:,} parameters are trained")
    for name, told in PARTS.items():
        if (size := getattr(n, name)) or name == "peak":
            typer.echo(f"  {size / 1e9:8.2f} GB  {told}")
    typer.echo(f"  {n.flops / 1e12:8.2f}     10^12 FLOPs a step" + (f", {n.seconds(tflops):.3g} s" if tflops else ""))


def _changed(n: Needs, before: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in vars(n.setting).items() if value != getattr(before, name))
