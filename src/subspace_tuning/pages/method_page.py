"""A page for one method, all of it read off the method, tried out or measured; the site has one for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from inspect import cleandoc
from typing import Any, NamedTuple

import torch
from peft import PeftType

from subspace_tuning.algebra import Weight
from subspace_tuning.files.markdown import table
from subspace_tuning.method.catalogue import Entry
from subspace_tuning.method.method import Method
from subspace_tuning.method.parameters import Start
from subspace_tuning.method.registry import METHODS
from subspace_tuning.method.strength import rule
from subspace_tuning.methods.reconstruct.prompt import SoftPrompt
from subspace_tuning.methods.relations import relations_of
from subspace_tuning.pages.small import drawable, small
from subspace_tuning.peft_types.table import KINDS
from subspace_tuning.tuner.shared import SCOPES

N, M = 768, 3072  # a feed-forward weight of RoBERTa-base; its key weight is N x N
PROBE = (48, 40)
HEADER = ("data", "what is tuned", "score", "trained")
DRAWN = """\
Dashed: a weight W in $R^{2 \\times 2}$, as the ellipse to which it takes the unit circle. Blue: $\\varphi_t(W)$, from W
to $\\varphi(W)$ and back ([what lies between](../strength.md)). The two lines are where the inputs (1, 0) and (0, 1)
go. The parameters are moved along one random direction"""
MEASURED = (
    "Short runs, three seeds, in %: MiniLM on [movie reviews](../methods.md#measured) and [GLUE](../study.md), "
    "[SmolLM2](../language_models.md#the-study)."
)
PAPERS = (r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)"), (r"^(openreview\S+)", r"[\1](https://\1)")


class Measured(NamedTuple):
    """What was measured of all methods: docs/data/method_table.json and its kin, step.json, data/measured.csv."""

    scores: tuple[Mapping[str, Any], ...] = ()
    steps: Mapping[str, Any] | None = None
    studies: tuple[Mapping[str, str], ...] = ()


def method_page(entry: Entry, measured: Measured) -> str:
    """methods/NAME.md of the site."""
    first, _, rest = cleandoc(METHODS[entry.name].__doc__ or "").partition("\n")
    parts = [f"# {entry.name}", f"    {first.rstrip('.')}", rest.strip(), _picture(entry), _parameters(entry)]
    parts += [_fields(entry), _abilities(entry), _relations(entry), _cost(entry, measured), _scores(entry, measured)]
    parts += [f"## Lines that run\n\n```python\n{lines(entry.name)}```", _command(entry)]
    return "\n\n".join(filter(None, parts)) + "\n"


def lines(name: str) -> str:
    """A program that puts the method on a model, takes a step and stores what came of it."""
    cls = METHODS[name]
    method = cls()
    call = f"{cls.__name__}({f'r={method.r}' if hasattr(method, 'r') else ''})"
    steps = ", total_steps=100" if method.needs_total else ""
    asks = bool(method.calibration)
    told = [
        "import torch",
        "from peft import get_peft_model",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n",
        f"from subspace_tuning import SubspaceConfig{', calibrate' if asks else ''}",
        f"from subspace_tuning.methods import {cls.__name__}\n",
        'model = AutoModelForSequenceClassification.from_pretrained("roberta-base")',
        f'config = SubspaceConfig(method={call}, task_type="SEQ_CLS"{steps})',
        f"model = get_peft_model(model, config{'.handed_over()' if cls.sits_on == 'tokens' else ''})",
        "model.print_trainable_parameters()\n",
        'tokens = AutoTokenizer.from_pretrained("roberta-base")',
        'batch = dict(tokens(["A fine story.", "It was dull."], padding=True, return_tensors="pt"))',
        'batch["labels"] = torch.tensor([1, 0])',
        *(["calibrate(model, [batch])  # where it starts, by a few batches"] if asks else []),
        f"optimizer = torch.optim.AdamW(model.parameters(), lr={method.learning_rate:g})",
        "model(**batch).loss.backward()",
        "optimizer.step()\n",
        'model.save_pretrained("adapter")',
        *(["plain = model.merge_and_unload()  # a model of transformers, as fast as before"] if cls.mergeable else []),
    ]
    return "\n".join(told) + "\n"


def _picture(e: Entry) -> str:
    if not drawable(METHODS[e.name]()):
        where = {"tokens": "in front of a model's tokens", "block": "on a whole block"}[e.sits_on]
        return f"It sits {where} and leaves each weight as it is, so that there is no ellipse to show."
    set_to = ", ".join(f"{k} = {v}" for k, v in _unlike_default(small(e.name)))
    drawn = f"![what {e.name} does to the ellipse of a weight]({e.name}.svg)"
    return f"{drawn}\n\n{DRAWN}{f' ({set_to})' if set_to else ''}."


def _unlike_default(method: Method) -> list[tuple[str, Any]]:
    plain = METHODS[method.name]()
    return [(k, v) for k, v in vars(method).items() if v != getattr(plain, k)]


def _parameters(e: Entry) -> str:
    told = f"`{e.parameters}` numbers on a weight in $R^{{n \\times m}}$"
    method = METHODS[e.name]()
    if e.sits_on == "tokens":
        return f"## Parameters\n\n`{e.parameters}` numbers, d the width of the model and L its layers."
    size = (N, N if e.sits_on == "block" else M)
    at = " x ".join(map(str, size))
    count, zero = method.count(*size), _from_zero(method)
    rows = (
        (f"`{k}`", " x ".join(map(str, s.shape)), "zero" if k in zero else "not zero", _shared(method, k))
        for k, s in method.parameters(*size).items()
    )
    shapes = table(("parameter", f"shape on {at}", "starts at", "is"), rows).rstrip()
    sizes = "".join(f", {k} = {v}" for k, v in method.sizes(*size).items())
    told += f": with the default fields {count:,} on {at}{sizes}, {100 * count / (size[0] * size[1]):.3g} % of it."
    return f"## Parameters\n\n{told}\n\n{shapes}"


def _shared(method: Method, name: str) -> str:
    return f"shared by {SCOPES[method.shared[name]]}" if name in method.shared else "of its layer"


def _from_zero(method: Method) -> set[str]:
    """The parameters that start at zero, tried on a small weight."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tried = method.with_fields(r=2, init_r=3, b=8)
        constants = tried.constants(Weight(torch.randn(PROBE)))
        return {name for name, start in tried.parameters(*PROBE).items() if _is_zero(start, constants)}


def _is_zero(start: Start, constants: Mapping[str, torch.Tensor]) -> bool:
    value = torch.empty(start.shape, dtype=start.dtype)
    start.fill(value, constants)
    return not value.any()


def _fields(e: Entry) -> str:
    method = METHODS[e.name]
    rows = [(f"`{name}`", f"`{value!r}`") for name, value in e.fields.items()]
    told = f"It starts with the learning rate {method.learning_rate:g}, on the modules "
    told += f"`{method.places}` where none are named ([models](../models.md))."
    told = told if e.sits_on != "tokens" else f"It starts with the learning rate {method.learning_rate:g}."
    return "## Fields\n\n" + (table(("field", "default"), rows) + "\n" if rows else "None. ") + told


def _abilities(e: Entry) -> str:
    method = METHODS[e.name]()
    theirs = [f"`{kind.peft_type}`" for kind in KINDS.values() if type(method) in kind.methods]
    if isinstance(method, SoftPrompt):
        theirs = [f"`{PeftType(method.peft_config('SEQ_CLS').peft_type).value}`, which it is"]
    rows = [
        ("sits on", e.sits_on),
        ("merges into the weight", _yes(e.mergeable)),
        ("is exactly a LoRA once trained ([`export --to lora`](../convert.md))", _yes(e.lora_export)),
        ("trains on a quantised base as it is ([which](../quantised.md))", _yes(e.quantised_base)),
        ("acts between steps ([loops](../loops.md))", _yes(e.on_step)),
        ("asks of the data before training", ", ".join(e.calibration) or "nothing"),
        ("lies between W and phi(W) ([strength](../strength.md))", f"`{rule(METHODS[e.name])}`"),
        ("type of PEFT's that computes the same ([both ways](../convert.md))", ", ".join(theirs) or "none"),
        ("kinds of weight", "[what was tried](../kinds.md)"),
    ]
    return "## What it can do\n\n" + table(("", ""), rows).rstrip()


def _relations(e: Entry) -> str:
    told = "\n".join("- " + re.sub(r"`(\w+)`", _linked, line) for line in relations_of(e.name))
    about = "Tested as functions and as fits. To contain is to reach whatever the other reaches."
    return f"## Relations\n\n{told}\n\n{about}" if told else ""


def _linked(found: re.Match[str]) -> str:
    return f"[`{found[1]}`]({found[1]}.md)" if found[1] in METHODS else found[0]


def _cost(e: Entry, measured: Measured) -> str:
    lines = (measured.steps or {}).get("contenders", ())
    rows = [_step(line) for line in lines if line["name"] in (e.name, "full")]
    if len(rows) < 2:
        return ""
    header = (
        "a step of",
        "time over the floor",
        "FLOPs over the floor",
        "bytes kept for backward over the floor",
        "MB kept",
    )
    return f"## Cost\n\n{table(header, rows)}\nThe floor, and how it was measured: [how close to it](../floor.md)."


def _step(c: Mapping[str, Any]) -> tuple[str, ...]:
    of = {"ours": f"`{c['name']}`", "peft": f"`{c['name']}` of PEFT's", "full": "full fine-tuning"}[c["source"]]
    ratios = (f"{c[k]:.2f}" for k in ("time_ratio", "flops_ratio", "saved_bytes_ratio"))
    return (of, *ratios, f"{c['saved_mb']:.0f}")


def _scores(e: Entry, measured: Measured) -> str:
    """Its own rows of all tables of scores, beside full fine-tuning and the linear probe."""
    shown = {e.name: f"`{e.name}`", "full": "full fine-tuning", "head": "the head alone"}
    rows: list[tuple[str, ...]] = []
    for steps, scores in zip(("100 steps", "300 steps"), measured.scores, strict=False):
        rows += _own((("movie reviews, " + steps, row) for row in scores["results"]), shown, e.name)
    studied = (
        (f"{row['task']}, study of {row['study']}", row) for row in measured.studies if row["task"] != "movie_reviews"
    )
    rows += _own(studied, shown, e.name)
    if not rows:
        return "## Measured\n\nNot yet: it joined after the last run of the [table of scores](../methods.md#measured)."
    return f"## Measured\n\n{table(HEADER, rows)}\n{MEASURED}"


def _own(rows: Iterable[tuple[str, Mapping[str, Any]]], shown: Mapping[str, str], name: str) -> list[tuple[str, ...]]:
    """Those of data on which the method was tried."""
    rows = [(data, row) for data, row in rows if row["method"] in shown]
    tried = dict.fromkeys(data for data, row in rows if row["method"] == name)
    ordered = (
        (data, row, who) for data in tried for who in shown for at, row in rows if at == data and row["method"] == who
    )
    return [_score(data, row, shown[who]) for data, row, who in ordered]


def _score(data: str, row: Mapping[str, Any], who: str) -> tuple[str, ...]:
    rank = f" r = {row['r']}" if row.get("r") else ""
    spread = f" ± {100 * row['spread']:.1f}" if "spread" in row else ""
    return data, f"{who}{rank}", f"{100 * float(row['score']):.1f}{spread}", f"{int(row['trainable']):,}"


def _command(e: Entry) -> str:
    rank = f" --rank {e.fields['r']}" if "r" in e.fields else ""
    paper = e.paper
    for pattern, link in PAPERS:
        paper = re.sub(pattern, link, paper)
    return f"Or from the command line:\n\n```bash\nsubspace train --method {e.name}{rank}\n```\n\n## Paper\n\n{paper}"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
