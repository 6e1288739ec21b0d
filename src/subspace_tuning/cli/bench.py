"""Commands that measure speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspace_tuning.cli.command import app, command, print_json
from subspace_tuning.errors import BadInput

bench_app = typer.Typer(
    name="bench", help="Measure what steps cost, beside the least that they can cost.", no_args_is_help=True
)
app.add_typer(bench_app)


@command(
    "step",
    group=bench_app,
    examples=[
        "subspace bench step",
        "subspace bench step config.json --layers 2 --methods ssb,lora,dora --rounds 11",
        "subspace bench step --methods ssb,lora --no-peers --untimed --json",
    ],
)
def step(
    model: Annotated[
        Path | None, typer.Argument(help="A model's config.json; without it the shape of RoBERTa-base.")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the model.")] = 4,
    methods: Annotated[
        str | None, typer.Option(help="Names with commas, such as ssb,lora+mpc_o; all without it.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Also PEFT's implementation of each method that it has.")] = True,
    batch: Annotated[int, typer.Option(min=1)] = 8,
    length: Annotated[int, typer.Option(min=1)] = 128,
    rank: Annotated[int, typer.Option(min=1)] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Each round times every contender once.")] = 7,
    dtype: Annotated[str, typer.Option(help="Of the base: float32 or bfloat16.")] = "float32",
    autocast: Annotated[bool, typer.Option(help="bf16 autocast around the forward pass.")] = False,
    untimed: Annotated[bool, typer.Option("--untimed", help="Only what does not depend on the machine.")] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time one training step of each method against the floor.

    The floor is the same model with everything frozen and the loss's gradient forced down to the first block's input:
    no fine-tuning that reaches the first block can cost less. Ratios are medians over rounds, each to the floor of the
    same round.
    """
    import json

    import torch

    from subspace_tuning import memory
    from subspace_tuning.bench.step import Setting, bench, read_config, to_data
    from subspace_tuning.cli.progress import counted

    if dtype not in ("float32", "bfloat16"):
        raise BadInput(f"--dtype is float32 or bfloat16, got {dtype!r}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(read_config(model), layers, batch, length, rank, rounds, dtype, autocast, device)
    names = [n.strip() for n in methods.split(",")] if methods else None
    with counted("timing") as tick:
        lines = bench(setting, names, peers, not untimed, tick)
    data = to_data(setting, lines, memory.device_name())
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(data)
        return
    typer.echo(
        f"{'':24}{'time':>7}{'spread':>14}{'FLOPs':>7}{'saved':>7}{'MB':>7}{'peak MB':>9}{'start s':>9}{'bytes':>11}"
    )
    for c in lines:
        name = f"{c.name} (PEFT)" if c.source == "peft" else c.name
        spread = f"{c.time_low:.2f}-{c.time_high:.2f}"
        typer.echo(
            f"{name:24}{c.time_ratio:7.3f}{spread:>14}{c.flops_ratio:7.3f}{c.saved_bytes_ratio:7.3f}"
            f"{c.saved_mb:7.0f}{c.peak_mb:9.0f}{c.startup_seconds:9.2f}{c.adapter_bytes:11,}"
        )
