"""Commands that write adapters as what others can load, and compare: export, combine, diff."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.cli.use import Imports, Strength, import_all
from subspace_tuning.errors import BadInput
from subspace_tuning.files.text import lines_of, read_text

if TYPE_CHECKING:
    from subspace_tuning.convert.certificate import Certificate
    from subspace_tuning.convert.lora import Wanted


@dataclass(frozen=True)
class Written:
    """Options of all commands that write adapters for others."""

    to: Annotated[
        str,
        typer.Option(
            help="lora: a plain LoRA adapter of PEFT's; merged: a plain transformers model; of one adapter also peft: "
            "the type of PEFT's that computes the same."
        ),
    ] = "lora"
    rank: Annotated[int | None, typer.Option(min=1, help="The best LoRA of at most this rank.")] = None
    energy: Annotated[
        float | None, typer.Option(help="In each layer the least rank that keeps this share of ||dW||^2.")
    ] = None
    exact: Annotated[bool, typer.Option("--exact", help="All of dW, whatever rank that takes.")] = False
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Refuse where a layer loses more of its change than this; without it 0.01 for lora, or what energy "
            "allows, and 0.5 for merging into a quantised base."
        ),
    ] = None
    base: Annotated[str | None, typer.Option(help="The base model, where the adapter does not name it rightly.")] = None
    probe: Annotated[
        Path | None,
        typer.Option(help="A file with a text a line, for the comparison of logits; built-in ones without it."),
    ] = None
    streamed: Annotated[
        bool,
        typer.Option("--streamed", help="Layer by layer, with the base left on disk; logits are not compared."),
    ] = False
    imports: Imports = None
    as_json: AsJson = False

    def wanted(self) -> Wanted:
        from subspace_tuning.convert.lora import Wanted

        import_all(self.imports)
        return Wanted(self.rank, self.energy, self.exact, self.max_error)

    def texts(self) -> list[str] | None:
        return _lines(self.probe)


@command(
    "export",
    examples=[
        "subspace export runs/my-run lora-adapter",
        "subspace export my-adapter lora-adapter --energy 0.9",
        "subspace export my-adapter merged-model --to merged --probe sentences.txt",
        "subspace export my-adapter merged-model --to merged --dry-run",
        "subspace export my-dora-adapter peft-adapter --to peft",
        "subspace export my-ssl-adapter merged-model --to merged --scales norm",
        "subspace export my-adapter half-way --strength 0.5",
    ],
    then="`subspace diff A B` compares two checkpoints, `subspace combine A B --out OUT` makes several adapters one.",
)
def export(
    adapter: Annotated[Path, typer.Argument(help="A run's folder or an adapter's.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    scales: Annotated[
        str, typer.Option(help="Of a merged model: put scales of inputs into the weight, or the norm where exact.")
    ] = "weight",
    strength: Strength = 1.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell layer by layer what merged weights would keep, and write nothing.")
    ] = False,
    *,
    options: Written,
) -> None:
    """Write an adapter as a plain LoRA adapter or a merged model, with a certificate of what was kept.

    Where the method's change has low rank, the LoRA is exact; else, unless told otherwise, it has the least rank that
    loses no more than --max-error of a layer's change. `certificate.json` holds each layer's relative error, and how
    far the logits of what was written are from the adapter's.

    A quantised base takes a merge in its codes, which may lose much of the change: a layer that would lose more than
    half of it, or than --max-error, is refused. --dry-run tells beforehand.

    SSL and SSB scale inputs. Where a norm comes before and all that reads it wants the same scales, --scales norm puts
    them there, and SSL leaves the weight as it was, bit for bit; elsewhere they go into the weight.
    """
    from subspace_tuning.convert.export import export as write

    o = options
    if o.streamed:
        if scales != "weight" or strength != 1 or dry_run or o.probe or o.to == "peft":
            raise BadInput(
                "--streamed goes with --to lora or merged, and none of --scales, --strength, --dry-run, --probe"
            )
        tell(_streamed([adapter], out, o), out, o.as_json)
        return
    made = write(adapter, out, o.to, o.wanted(), o.base, o.texts(), scales, strength, dry_run)
    if dry_run and not o.as_json:
        _tell_layers(made)
    tell(made, None if dry_run else out, o.as_json)


@command(
    "combine",
    examples=[
        "subspace combine runs/a runs/b --out both",
        "subspace combine lora-a ssb-b --weights 0.7,0.3 --out one --energy 0.95",
        "subspace combine first second --how compose --to merged --out model",
    ],
    then="`subspace diff A B` compares two checkpoints tensor by tensor.",
)
def combine(
    adapters: Annotated[list[Path], typer.Argument(help="Runs or adapters of one base model.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.", show_default=False)],
    weights: Annotated[str | None, typer.Option(help="Numbers with commas, one an adapter; 1 each without it.")] = None,
    how: Annotated[str, typer.Option(help="sum: W + sum of w_i dW_i; compose: each on what the ones before made.")] = (
        "sum"
    ),
    strength: Annotated[
        str | None,
        typer.Option(help="t of each adapter's phi_t: one number, or one an adapter with commas; 1 without."),
    ] = None,
    *,
    options: Written,
) -> None:
    """Write several adapters, of any families, as one LoRA adapter or one merged model, with a certificate.

    A classification head, where there is one, is the first adapter's.
    """
    from subspace_tuning.convert.combine import combine as write

    o = options
    w, t = _numbers("weights", weights), _numbers("strength", strength)
    t = t * len(adapters) if t is not None and len(t) == 1 else t
    if o.streamed:
        if t is not None or o.probe:
            raise BadInput("--streamed goes with none of --strength and --probe")
        tell(_streamed(adapters, out, o, weights=w, how=how), out, o.as_json)
        return
    tell(write(adapters, out, o.to, w, how, o.wanted(), o.base, o.texts(), t), out, o.as_json)


@command(
    "diff",
    examples=["subspace diff minilm my-fine-tuned-minilm", "subspace diff adapter-a adapter-b --json"],
    then="`subspace analyze MODEL --base BASE` says what became of the subspaces of each weight.",
)
def diff(
    a: Annotated[
        str,
        typer.Argument(help="A model's, an adapter's or a run's folder, a hub name, or minilm.", show_default=False),
    ],
    b: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    everything: Annotated[bool, typer.Option("--all", help="Also tensors that are the same.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints tensor by tensor: which changed, and by how much relative to A.

    Names are those of B's model, so that a base model is compared with a classifier made from it.
    """
    from subspace_tuning.cli.progress import counted
    from subspace_tuning.convert.diff import STATES
    from subspace_tuning.convert.diff import diff as compare

    with counted("comparing") as tick:
        found = compare(a, b, tick)
    if as_json:
        print_json([d._asdict() for d in found])
        return
    for d in found:
        if everything or d.state != "same":
            size = "" if d.relative is None else f"{d.relative:10.3g}{d.largest:10.3g}"
            typer.echo(f"{d.state:10} {'x'.join(map(str, d.shape)):>12} {size:20}  {d.name}")
    counts = {state: sum(d.state == state for d in found) for state in STATES}
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items() if count))


def _streamed(adapters: list[Path], out: Path, o: Written, **how: Any) -> Certificate:
    from subspace_tuning.cli.progress import counted
    from subspace_tuning.theory.streamed import written

    with counted("writing") as tick:
        return written(adapters, out, o.to, o.wanted(), o.base, tick=tick, **how)


def _tell_layers(c: Certificate) -> None:
    for name, layer in c.layers.items():
        codes = "" if layer.codes is None else f"{layer.codes:8.1%} of the codes changed"
        typer.echo(f"{layer.error:10.3g}{codes}  {name}")


def tell(c: Certificate, out: Path | None, as_json: bool) -> None:
    """What was kept, and where it is; without a folder, whether it would be written."""
    if as_json:
        typer.echo(c.to_json())
        return
    ranks: list[Any] = [layer.rank for layer in c.layers.values() if layer.rank]
    size = f"rank {min(ranks)} to {max(ranks)}, " if ranks else ""
    folded = [norm for norm, said in c.norms.items() if said == "folded"]
    kind = "exact but for rounding" if c.exact else "approximate"
    typer.echo(
        f"{len(c.layers)} layers, {size}{kind}: relative error {c.error:.2g}, {c.largest_error:.2g} at most "
        f"({c.worst_layer})\n"
        + (
            f"logits on {c.probe}: {c.logits.largest:.2g} apart at most, {c.logits.mean:.2g} on average "
            f"(the adapter moves them by {c.moved.mean:.2g})\n"
            if c.probe
            else ""
        )
        + (
            f"scales in {len(folded)} of {len(c.norms)} norms; certificate.json says why not in others\n"
            if c.norms
            else ""
        )
        + (
            f"written to {out}"
            if out
            else f"nothing is written{f', and would be refused: {c.refused}' * bool(c.refused)}"
        )
    )


def _lines(path: Path | None) -> list[str] | None:
    """The texts of a file, one a line; blank lines are none."""
    if path is None:
        return None
    lines = [line for line in lines_of(read_text(path)) if line.strip()]
    if not lines:
        raise BadInput(f"there is no text in {path}")
    return lines


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise BadInput(f"--{option} takes numbers with commas, such as 0.7,0.3; got {text!r}") from None
