"""Commands that measure speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from subspace_tuning.cli.command import app, command, print_json
from subspace_tuning.errors import BadInput

bench_app = typer.Typer(
    name="bench", help="Measure what steps cost, beside the least that they can cost.", no_args_is_help=True
)
app.add_typer(bench_app)


Config = Annotated[
    str,
    typer.Argument(help="roberta or llama for the shape of RoBERTa-base or of SmolLM2-135M, or a model's config.json."),
]
Layers = Annotated[int, typer.Option(min=1, help="Blocks of the model.")]
Size = Annotated[int, typer.Option(min=1)]


@command(
    "step",
    group=bench_app,
    examples=[
        "subspace bench step",
        "subspace bench step llama --batch 4",
        "subspace bench step config.json --layers 2 --methods ssb,lora,dora --rounds 11",
        "subspace bench step --methods ssb,lora --no-peers --untimed --json",
        "subspace bench step --methods vera --modules query,value",
    ],
)
def step(
    model: Config = "roberta",
    layers: Layers = 4,
    methods: Annotated[
        str | None,
        typer.Option(help="Names with commas, such as ssb,lora+mpc_o, or all; without it those with a set reach."),
    ] = None,
    modules: Annotated[
        str | None, typer.Option(help="Names of the modules to tune; without it every method's own default.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Also PEFT's implementation of each method that it has.")] = True,
    batch: Size = 8,
    length: Size = 128,
    rank: Size = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Each round times every contender once.")] = 7,
    seed: Annotated[int, typer.Option(help="Of weights, tokens and the order in which contenders are timed.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the base: float32 or bfloat16.")] = "float32",
    autocast: Annotated[bool, typer.Option(help="bf16 autocast around the forward pass.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Time every contender, the floor too, compiled.")] = False,
    graphs: Annotated[bool, typer.Option("--graphs", help="Time steps replayed as CUDA graphs.")] = False,
    untimed: Annotated[bool, typer.Option("--untimed", help="Only what does not depend on the machine.")] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time one training step of each method against the floor.

    The floor is the same model with everything frozen and the loss's gradient forced down to the first block's input:
    no fine-tuning that reaches the first block can cost less. Ratios are medians over rounds, each to the floor timed
    right before or after; the floor's own, of the floor beside itself, show what the machine adds.
    """
    import json

    import torch

    from subspace_tuning.bench import memory
    from subspace_tuning.bench.step import Setting, bench, names, read_config, to_data
    from subspace_tuning.cli.progress import counted
    from subspace_tuning.files.aside import write
    from subspace_tuning.run.picture import show_table

    if dtype not in ("float32", "bfloat16"):
        raise BadInput(f"--dtype is float32 or bfloat16, got {dtype!r}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if graphs and (device == "cpu" or compiled):
        raise BadInput("--graphs replays steps as CUDA graphs: it needs a CUDA device, and goes without --compile")
    config = read_config(model)
    setting = Setting(
        config,
        layers,
        batch,
        length,
        rank,
        rounds,
        dtype,
        autocast,
        device,
        seed,
        compiled,
        graphs,
        tuple(_listed(modules)),
    )
    chosen = names(every=True) if methods == "all" else _listed(methods)
    with counted("timing") as tick:
        lines = bench(setting, chosen, peers, not untimed, tick)
    data = to_data(setting, lines, memory.device_name())
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write(output, json.dumps(data, indent=2) + "\n")
    if as_json:
        print_json(data)
        return
    header = ("", "time", "spread", "FLOPs", "saved", "MB", "peak MB", "start s", "bytes on disk")
    show_table(header, [_row(vars(line)) for line in lines])


def _listed(names: str | None) -> list[str]:
    return [n.strip() for n in names.split(",")] if names else []


def _row(line: dict[str, Any]) -> list[str]:
    timed = line["time_ratio"] is not None
    name = f"{line['name']} (PEFT)" if line["source"] == "peft" else line["name"]
    time = [f"{line['time_ratio']:.3f}", f"{line['time_low']:.2f}-{line['time_high']:.2f}"] if timed else ["", ""]
    fixed = [f"{line['flops_ratio']:.3f}", f"{line['saved_bytes_ratio']:.3f}", f"{line['saved_mb']:.0f}"]
    rest = [f"{line['peak_mb']:.0f}", f"{line['startup_seconds']:.2f}"] if timed else ["", ""]
    return [name, *time, *fixed, *rest, f"{line['adapter_bytes']:,}"]


@command(
    "saved",
    group=bench_app,
    examples=["subspace bench saved lora", "subspace bench saved dora config.json --peer --json"],
)
def saved(
    method: Annotated[str, typer.Argument(help="A method's name as `bench step` takes it, or floor or full.")],
    model: Config = "roberta",
    layers: Layers = 2,
    batch: Size = 8,
    length: Size = 128,
    rank: Size = 8,
    peer: Annotated[bool, typer.Option("--peer", help="PEFT's implementation.")] = False,
    least: Annotated[float, typer.Option(min=0, help="Leave out tensors below so many MB.")] = 0.2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what a method keeps for the backward pass, tensor by tensor, beside the floor."""
    from subspace_tuning.bench.saved import listing
    from subspace_tuning.bench.step import Setting, read_config
    from subspace_tuning.run.picture import show_table

    rows = listing(Setting(read_config(model), layers, batch, length, rank), method, peer)
    if as_json:
        print_json({"tensors": [vars(row) for row in rows]})
        return
    shown = [row for row in rows if row.mb >= least]
    cells = [
        [f"{row.mb:.2f}", str(row.shape), "yes" if row.in_floor else "no", ", ".join(row.modules)] for row in shown
    ]
    show_table(("MB", "shape", "in the floor", "kept by"), cells, f"{sum(row.mb for row in rows):.1f} MB")


@command(
    "profile",
    group=bench_app,
    examples=["subspace bench profile ssb", "subspace bench profile vera --peer --rounds 11 --json"],
)
def profile(
    method: Annotated[str, typer.Argument(help="A method's name as `bench step` takes it, or full.")],
    model: Config = "roberta",
    layers: Layers = 4,
    batch: Size = 8,
    length: Size = 128,
    rank: Size = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Steps of each side, in turn; figures are medians.")] = 7,
    peer: Annotated[bool, typer.Option("--peer", help="PEFT's implementation.")] = False,
    least: Annotated[float, typer.Option(min=0, help="Leave out what differs by fewer milliseconds.")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show in which operations a method's step spends more time than the floor's."""
    import torch

    from subspace_tuning.bench.profiled import profiled
    from subspace_tuning.bench.step import Setting, read_config
    from subspace_tuning.cli.progress import counted
    from subspace_tuning.run.picture import show_table

    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(read_config(model), layers, batch, length, rank, rounds, device=device)
    with counted("profiling") as tick:
        rows = profiled(setting, method, peer, tick)
    if as_json:
        print_json({"method": method, "peer": peer, "operations": [vars(row) for row in rows]})
        return
    cells = [
        [
            row.operation,
            f"{row.floor_ms:.1f}",
            str(row.floor_calls),
            f"{row.ms:.1f}",
            str(row.calls),
            f"{row.more_ms:+.1f}",
        ]
        for row in rows
        if abs(row.more_ms) >= least
    ]
    whole = sum(row.floor_ms for row in rows), sum(row.ms for row in rows)
    told = f"{whole[1]:.1f} ms, the floor {whole[0]:.1f} ms; times of operations without what they call"
    show_table(("operation", "floor ms", "calls", "ms", "calls", "more ms"), cells, told)
