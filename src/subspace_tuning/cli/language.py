"""Commands for runs of language models: evaluate, chat."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from subspace_tuning.cli.command import command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.cli.use import Imports, import_all
from subspace_tuning.errors import BadInput

Target = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run's folder, or a model's.", show_default=False)]


@command(
    "evaluate",
    examples=[
        "subspace evaluate runs/my-run",
        'subspace evaluate smollm2 --judge "bits_per_byte data=editorials samples=300"',
        'subspace evaluate runs/my-run --judge "multiple_choice data=ARC-Easy normalise=length"',
        "subspace evaluate runs/my-run --lm-eval arc_easy,piqa --samples 200",
        "subspace evaluate smollm2 --recipe recipes/commonsense.yaml",
    ],
)
def evaluate(
    target: Target,
    judge: Annotated[list[str] | None, typer.Option(help="A kind and its fields, KIND KEY=VALUE ...")] = None,
    lm_eval: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, with commas.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take evaluate and retention of this recipe.")] = None,
    samples: Annotated[int | None, typer.Option(help="At most so many rows of each.")] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Judge a run or a model: by its own recipe's judgements, another recipe's, or those that are named."""
    from subspace_tuning.judge import several
    from subspace_tuning.run.evaluate import Judged, named_by
    from subspace_tuning.run.recipe import read

    import_all(imports)
    named = [judgement_of(words) for words in judge or []]
    named += [{"judge": "lm_eval", "task": task.strip()} for task in (lm_eval or "").split(",") if task.strip()]
    if recipe is not None or not named:
        named += named_by(None if recipe is None else read(recipe), target)
    more = {} if samples is None else {"samples": samples}
    judgements = several([{**one, **more} for one in named])
    found = Judged(target)(judgements)
    if as_json:
        print_json({label: verdict.to_data() for label, verdict in found.items()})
        return
    for label, verdict in found.items():
        others = ", ".join(f"{name} {value:.4f}" for name, value in verdict.metrics.items() if name != verdict.metric)
        typer.echo(f"{label}: {verdict.metric} {verdict.value:.4f} on {verdict.rows} rows ({others})")
        for note in (*(f"{count} rows left out: {why}" for why, count in verdict.left_out.items()), *verdict.notes):
            typer.echo(f"  {note}")


def judgement_of(words: str) -> dict[str, Any]:
    """Plain data of a judgement from ``KIND KEY=VALUE ...``."""
    try:
        kind, *rest = shlex.split(words)
    except ValueError as error:
        raise BadInput(
            f"cannot read --judge {words!r}: expected KIND KEY=VALUE ..., such as 'bits_per_byte data=F'"
        ) from error
    found: dict[str, Any] = {"judge": kind}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"cannot read {word!r} in --judge {words!r}: expected KEY=VALUE")
        try:
            found[key] = yaml.safe_load(value) if key not in ("data", "template", "option") else value
        except yaml.YAMLError as error:
            raise BadInput(f"the value of {key} in --judge {words!r} is not YAML") from error
    return found


@command("chat", examples=["subspace chat runs/my-run", "subspace chat smollm2 --temperature 0.7"])
def chat(
    target: Target,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token.")] = 0.0,
    imports: Imports = None,
) -> None:
    """Talk with a run or a model. Ctrl-C ends an answer, /reset forgets what was said, /quit leaves."""
    from subspace_tuning.run.chat import Chat
    from subspace_tuning.run.evaluate import Judged

    import_all(imports)
    ready = Judged(target)
    talk = Chat(ready.model, ready.tokenizer, max_new_tokens, temperature)
    typer.echo("/reset forgets what was said, /quit leaves; Ctrl-C ends an answer", err=True)
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo("\n/quit leaves", err=True)
            continue
        if said in ("/quit", "/exit"):
            return
        if said == "/reset":
            talk.reset()
        elif said:
            try:
                talk.say(said, lambda text: typer.echo(text, nl=False))
            except BadInput as error:
                typer.echo(f"{error}", err=True)
            typer.echo()
