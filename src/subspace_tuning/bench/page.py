"""docs/floor.md and its picture, from the results of ``subspace bench step --output docs/data/step.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subspace_tuning.bench.card import on_a_card
from subspace_tuning.bench.reach import reach_of
from subspace_tuning.files.figure import save
from subspace_tuning.files.markdown import table

Line = dict[str, Any]
TOLD = 3.0  # milliseconds
HEADER = (
    "contender",
    "time",
    "reach",
    "FLOPs",
    "saved",
    "reach",
    "MB saved",
    "peak MB",
    "start-up s",
    "bytes on disk",
)
HEAD = """\
<!-- made by `make docs` from docs/data/step.json -->
# How close to the floor

A step of fine-tuning cannot cost less than the frozen model's forward pass plus the gradient of its activations: **the
floor** is the same model with everything frozen and the loss's gradient forced down to the first block's input. Time is
the median over rounds of the ratio to the floor timed right before or after (quartiles in brackets; the floor's own
row is the floor beside itself); FLOPs are matrix products as
`torch.utils.flop_counter` counts them; saved bytes are the distinct storages that autograd keeps for the backward pass,
parameters left out.

![time and saved bytes over the floor](pictures/floor.svg)

"""
TAIL = """
## What stands between

`subspace bench saved METHOD` lists what is kept, tensor by tensor, and what of it the floor keeps too;
`subspace bench profile METHOD` shows in which operations a step spends more time than the floor's.

- **A reach below 1.00 of the saved bytes is out of reach.** A frozen `Linear` keeps its weight and nothing else for
  the gradient of its input, so that the floor keeps no input of any weight: it keeps what attention, layer norms,
  activations and dropouts need. A method that trains something in every block needs these too.
- **Inputs of weights need not be kept where their maker keeps enough.** A layer norm keeps its own input and an
  activation its argument; the input x of the weight behind it is made from that again in the backward pass
  (`algebra/kept.py`). What is left for LoRA and its kin is the attention's context, the input of the attention's
  output weight, which nobody keeps, and in the first block the embeddings.
- **Scaled outputs** (SSB, (IA)3) have a gradient that follows from the output, where no bias is far larger. Behind the
  up-projection the activation keeps it anyway; keys and values are kept once more, because attention with dropout
  copies them on a CPU.
- **Beside PEFT's.** {peft}
- **The processor.** These times are of two cores without AVX-512, where thin products are slow for everybody: LoRA
  1.22, PEFT's 1.21. On two cores with AVX-512 the same command gave 1.09 and 1.12, DoRA 1.18, SSB 1.04 (measured
  before scales were trained as deviations and penalties left the loss). FLOPs and saved bytes are the same on both,
  and before and after.
- **PiSSA and MiLoRA** leave the base weight as it is and train (A_0 + A) (B_0 + B) - A_0 B_0, a product of rank 2 r;
  PEFT's PiSSA puts W - A_0 B_0 in the place of W, a second copy of every weight or a base that no other adapter can
  use.
- **DoRA** scales every output, also those of weights whose next operation, a dropout, keeps only its mask.
- **VeRA** at r = 256 stands on queries and values, as in its paper, and does {vera} times the floor's FLOPs there; on
  all six weights of a block it would be 1.44 times. It keeps x A diag(d) B, because making it again costs more than
  it saves.
- **SAM-PARSER, SVDiff, SVFT** keep x U for each weight, because no two weights share their U; making it again is a
  whole matrix product.
- **Queries, keys and values read one x.** One product `x [A_q A_k A_v]` would save two reads of x, but the three
  layers are called one by one by a model that we do not own, each with its own hooks, adapters and dropout; a memo
  between them would outlive the forward pass that it is true for. The three products stay apart.
- **Not faster than the arithmetic:** thin products are computed from the side that the processor is fast at, (A^T
  x^T)^T, and thin terms of a sum are joined into one product, `[L_1 L_2] [R_1; R_2]`: PiSSA, MiLoRA and Spectral read
  x once.
"""


def page(
    data: dict[str, Any],
    tensors: Sequence[Line] = (),
    profiles: Sequence[dict[str, Any]] = (),
    compiled: dict[str, Any] | None = None,
    llama: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
) -> str:
    """docs/floor.md; with other shapes, a GPU, compiled steps, profiles and what LoRA keeps, where there are."""
    vera = next((f"{c['flops_ratio']:.2f}" for c in data["contenders"] if c["name"] == "vera"), "1.1")
    tail = TAIL.replace("{vera}", vera).replace("{peft}", _beside_peft(data["contenders"]))
    parts = [HEAD, _about(data, "subspace bench step --output docs/data/step.json"), _rows(data)]
    parts += [_llama(llama) if llama else "", _compiled(compiled) if compiled else "", on_a_card(card), tail]
    parts += [_profiled(profiles) if profiles else "", _listed(tensors) if tensors else ""]
    return "".join(parts)


def _beside_peft(contenders: Sequence[Line]) -> str:
    """Shares of PEFT's time, for the methods that have a reach of that kind."""
    time = {(c["name"], c["source"]): c["time_ratio"] for c in contenders}
    told: dict[str, list[str]] = {}
    for (name, source), ratio in time.items():
        reach = reach_of(name) if source == "ours" else None
        if reach and reach.of_peer and ratio and time.get((reach.of_peer[0], "peft")):
            peer, share = reach.of_peer
            told.setdefault(f"PEFT's {peer} (reach: {share:.2f})", []).append(
                f"{name} {ratio / time[peer, 'peft']:.2f}"
            )
    found = "; ".join(f"of the time of {peer}: {', '.join(shares)}" for peer, shares in told.items())
    return f"{found[:1].upper()}{found[1:]}." if found else "Not timed."


def _rows(data: dict[str, Any]) -> str:
    return table(HEADER, map(_row, data["contenders"]))


def _llama(data: dict[str, Any]) -> str:
    methods = ",".join(c["name"] for c in data["contenders"] if c["source"] == "ours")
    made = f"subspace bench step llama --batch 4 --methods {methods} --output docs/data/step_llama.json"
    told = "RMSNorm, SwiGLU, grouped queries. The loss over the vocabulary keeps most of the floor's bytes. "
    return "\n## At the shape of a language model\n\n" + told + _about(data, made) + _rows(data)


def _compiled(data: dict[str, Any]) -> str:
    cells = (
        (
            f"{c['name']} (PEFT)" if c["source"] == "peft" else c["name"],
            f"{c['eager_ratio']:.2f}",
            f"{c['compiled_ratio']:.2f}",
            f"{c['compiled_over_eager']:.2f}",
            "" if c["graph_breaks"] is None else str(c["graph_breaks"]),
        )
        for c in data["contenders"]
    )
    header = ("contender", "eager", "compiled", "compiled / eager", "graph breaks")
    told = (
        f"With `torch.compile`, {data['setting']['layers']} blocks of the same shape: time over the floor of the same "
        "kind, eager or compiled. Made by `python benchmarks/compile_step.py`.\n\n"
    )
    return "\n## Compiled\n\n" + told + table(header, cells)


def _profiled(profiles: Sequence[dict[str, Any]]) -> str:
    """The operations that a step spends more on than the floor's, or less, by at least ``TOLD`` milliseconds."""
    rows = []
    for data in profiles:
        ops = data["operations"]
        whole, floor = sum(op["ms"] for op in ops), sum(op["floor_ms"] for op in ops)
        more = [(op["operation"].removeprefix("aten::"), op["ms"] - op["floor_ms"]) for op in ops]
        told = ", ".join(f"`{name}` {ms:+.1f}" for name, ms in more if abs(ms) >= TOLD)
        rows.append((f"`{data['method']}`", f"{floor:.0f}", f"{whole - floor:+.1f}", told))
    made = "Made by `subspace bench profile METHOD --json > docs/data/profile_METHOD.json`, same shape as above."
    head = f"## Where the time goes\n\nMilliseconds of a step beyond the floor's, by operation. {made}\n\n"
    return "\n" + head + table(("method", "floor, ms", "beyond it, ms", "in which operations"), rows)


def _listed(tensors: Sequence[Line]) -> str:
    cells = (
        (
            f"{t['mb']:.2f}",
            str(tuple(t["shape"])),
            "yes" if t["in_floor"] else "no",
            ", ".join(f"`{m}`" for m in t["modules"]),
        )
        for t in tensors
        if t["mb"] >= 0.2
    )
    made = "Two blocks of the same shape; `subspace bench saved lora --json > docs/data/saved.json`."
    head = f"## What LoRA keeps\n\n{made}\n\n"
    return "\n" + head + table(("MB", "shape", "in the floor", "kept by"), cells)


def _about(data: dict[str, Any], command: str) -> str:
    s = data["setting"]
    timed = any(c["time_ratio"] is not None for c in data["contenders"])
    shape = f"{s['config']['model_type']}, width {s['config'].get('hidden_size')}, {s['layers']} blocks"
    size = f"batch {s['batch']} x {s['length']}, {s['dtype']}, r = {s['rank']}"
    where = f"{data['device']}, {data['threads']} threads, torch {data['torch']}, {s['rounds']} rounds"
    told = where if timed else f"torch {data['torch']}; times are not measured yet"
    return f"{shape}, random weights, {size}; {told}. Made by `{command}`.\n\n"


def _row(c: Line) -> tuple[str, ...]:
    reach = reach_of(c["name"]) if c["source"] == "ours" else None
    name = f"{c['name']} (PEFT)" if c["source"] == "peft" else c["name"]
    time = "" if c["time_ratio"] is None else f"{c['time_ratio']:.2f} ({c['time_low']:.2f}-{c['time_high']:.2f})"
    return (
        name,
        time,
        f"{reach.time:.2f}" if reach else "",
        f"{c['flops_ratio']:.2f}",
        f"{c['saved_bytes_ratio']:.2f}",
        f"{reach.saved:.2f}" if reach else "",
        f"{c['saved_mb']:.0f}",
        *("" if c[k] is None else f"{c[k]:.{digits}f}" for k, digits in (("peak_mb", 0), ("startup_seconds", 1))),
        f"{c['adapter_bytes']:,}",
    )


def picture(data: dict[str, Any], path: Path) -> None:
    """Save path.svg and path.png: each contender's ratios to the floor as points on a line of its own."""
    from matplotlib.figure import Figure

    lines = [c for c in data["contenders"] if c["source"] != "floor"]
    figures = [("time_ratio", "time", "#c2410c"), ("saved_bytes_ratio", "saved bytes", "#0b7285")]
    figure = Figure(figsize=(8, 0.24 * len(lines) + 1), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1.0, color="#374151", linewidth=1)
    for key, told, colour in figures:
        points = [(c[key], y) for y, c in enumerate(lines) if c[key] is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.scatter(xs, ys, color=colour, label=told, s=30, zorder=3)
    axes.set_yticks(range(len(lines)), [f"{c['name']} (PEFT)" if c["source"] == "peft" else c["name"] for c in lines])
    axes.invert_yaxis()
    axes.set_xlabel("times the floor")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)
