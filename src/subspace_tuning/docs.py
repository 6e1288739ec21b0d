"""Writes the pages that are made: docs/methods.md, floor.md, choose.md, the tables in README.md, strength.md, scale.md,
leaderboard.md and reliability.md, and those of measured figures that the package carries. The pages of single methods
are made as the site is built (docs/hooks.py).

    python -m subspace_tuning.docs      or      make docs

Nothing in them is written by hand; scores come from docs/data/method_table.json, made by benchmarks/method_table.py,
and the cost of steps from docs/data/step.json, made by `subspace bench step`, and from files beside it that the page
names; so does docs/scale.md.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import cache
from inspect import cleandoc
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_tuning.bench import page as floor
from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table, with_table
from subspace_tuning.method.catalogue import Entry, catalogue
from subspace_tuning.method.registry import METHODS
from subspace_tuning.method.strength import rule
from subspace_tuning.methods.relations import relations_of
from subspace_tuning.pages.choose import choose_page
from subspace_tuning.pages.choose_words import CHINESE, ENGLISH
from subspace_tuning.pages.ellipses import ellipses
from subspace_tuning.pages.measured import measured_csv, predictors_csv, steps_csv
from subspace_tuning.pages.method_page import Measured, method_page
from subspace_tuning.pages.reliability import DATA, reliability_tables
from subspace_tuning.pages.small import drawable, ellipse
from subspace_tuning.study import leaderboard
from subspace_tuning.tuner.shared import SCOPES

PAGE, README, SCORES = "docs/methods.md", "README.md", "docs/data/method_table.json"
LONGER = "docs/data/method_table_300.json"  # for the methods that 100 steps are too few for
FLOOR, STEPS, FLOOR_PICTURE = "docs/floor.md", "docs/data/step.json", "docs/pictures/floor.svg"
TENSORS, PROFILES = "docs/data/saved.json", "docs/data/profile_*.json"
COMPILED, LLAMA = "docs/data/compile_step.json", "docs/data/step_llama.json"
CARD = "docs/data/gpu.json"
MARKER = "<!-- methods -->"
ELLIPSES = "docs/pictures/ellipses.svg"
CHOOSE = {"docs/choose.md": ENGLISH, "docs/zh/choose.md": CHINESE}
STRENGTH, RULES = "docs/strength.md", "<!-- rules -->"
SCALE, ESTIMATES, FORETOLD = "docs/scale.md", "docs/data/estimate.json", "<!-- estimate -->"
RELIABLE, TRIED = "docs/reliability.md", "<!-- reliability -->"
LEADERBOARD, ENTRIES = "docs/leaderboard.md", "<!-- leaderboard -->"
GLUE, JUDGED = "docs/data/minilm_glue.csv", "docs/data/advise.json"
STUDIES = {"GLUE": GLUE, "SmolLM2": "docs/data/lm_study.csv"}
CARRIED = "src/subspace_tuning/data"
SEARCHED = "\\*"  # marks a learning rate that was searched for
HEAD = """\
<!-- made by `make docs` from the registry: edit the methods, not this page -->
# Methods

phi(W) = g(f(W)): reconstruction adjusts the subspaces of W (f), extension adds new ones (g), combination does both.
W in R^{n x m} has n inputs and m outputs; rank r, k = min(n, m).

Read off each method, or tried out on a small weight:

- **merges**: what is trained can be written into W, and the adapter costs nothing afterwards;
- **LoRA**: phi(W) - W has exact low-rank factors, so that the trained adapter is a plain LoRA;
- **quantised**: W is reached through its layer's own forward alone, so that it may be quantised;
- **on-step**: the method acts between steps of training, by itself, on the optimiser's steps;
- **calibration**: the start asks something of the data (`calibrate(model, batches)`).
"""
LEFT_OUT = """\
## Left out

- **LN tuning** (arXiv:2312.11420) trains norms and nothing else. Gains of norms are no weights in R^{n x m} that rows
  meet, so that no equation here sits on them; `modules_to_save` trains norms whole beside any method, as PEFT's LN
  tuning does by themselves, and `bitfit` trains their biases.
- **Bat**, MiSS's variant W + (W + I) D block by block, has a dense gradient: every block of outputs turns the inputs by
  a matrix of its own.
"""
ABILITIES = ("method", "equation", "parameters", "sits on", "merges", "LoRA", "quantised", "on-step", "calibration")


@cache
def entries() -> list[Entry]:
    """The package's own methods."""
    return [e for e in catalogue() if METHODS[e.name].__module__.startswith("subspace_tuning.")]


def methods_page(*scores: dict[str, Any]) -> str:
    """docs/methods.md, with the tables of scores there are."""
    parts = [HEAD, table(ABILITIES, map(_abilities, entries())), *(["## Measured\n"] if scores else [])]
    parts += [*map(measured, scores), LEFT_OUT]
    for kind, group in by_kind():
        parts += [f"## {kind[0].upper()}{kind[1:]}\n", *map(_section, group)]
    return "\n".join(parts)


def readme_table() -> str:
    """Every method's name, by what it does to W; the equations are a click away."""
    rows = ((kind, " ".join(f"[`{e.name}`]({PAGE}#{e.name})" for e in group)) for kind, group in by_kind())
    return table(("what is done to W", "methods"), rows)


def site_pages(root: Path) -> dict[str, str]:
    """What the site alone has: a page and a moving picture for each method, under methods/."""
    scores = tuple(_read(root / path) for path in (SCORES, LONGER) if (root / path).is_file())
    studies = (root / CARRIED / "measured.csv").read_text(encoding="utf-8").splitlines()[1:]
    measured = Measured(scores, _read(root / STEPS), tuple(csv.DictReader(studies)))
    made = {f"methods/{e.name}.md": method_page(e, measured) for e in entries()}
    return made | {f"methods/{name}.svg": ellipse(name) for name in METHODS if drawable(METHODS[name]())}


def site_nav() -> list[dict[str, list[dict[str, str]]]]:
    """The methods' pages in the site's table of contents, by what is done to W."""
    return [{kind: [{e.name: f"methods/{e.name}.md"} for e in group]} for kind, group in by_kind()]


def by_kind() -> Iterator[tuple[str, list[Entry]]]:
    """Methods by what is done to W."""
    for (category, mode), group in groupby(entries(), key=lambda e: (e.category, e.mode)):
        yield f"{category}{f', mode {mode}' if mode else ''}", list(group)


def rules_table() -> str:
    """What lies between W and phi(W), one line a rule."""
    rules: dict[str, list[str]] = {}
    for e in entries():
        rules.setdefault(rule(METHODS[e.name]), []).append(f"[`{e.name}`](methods.md#{e.name})")
    return table(("phi_t", "methods"), ((_code(told), " ".join(names)) for told, names in rules.items()))


def estimates_table(data: dict[str, Any]) -> str:
    """Peaks told beside peaks measured."""
    rows = (
        (
            case["model"],
            case["method"],
            f"{case['batch']} x {case['length']}",
            *(f"{case[key] / 1e6:.0f}" for key in ("estimated", "measured")),
            f"{100 * (case['estimated'] / case['measured'] - 1):+.1f} %",
            f"{case['kept_for_later'] / 1e6:.0f}" if case["kept_for_later"] else "",
        )
        for case in data["cases"]
    )
    header = ("model", "method", "batch", "told, MB", "measured, MB", "off by", "as the C library has it, MB")
    return f"{data['device']}, torch {data['torch']}; `python benchmarks/estimate.py`.\n\n{table(header, rows)}"


def pages(root: Path) -> dict[Path, str]:
    """Every generated page of a checkout and what it should say."""
    if not (root / README).is_file():
        raise BadInput(f"there is no {README} in {root.resolve()}; run this in a clone of the repository")
    scores = [_read(root / path) for path in (SCORES, LONGER) if (root / path).is_file()]
    readme = (root / README).read_text(encoding="utf-8")
    made = {root / PAGE: methods_page(*scores), root / README: with_table(readme, readme_table(), MARKER, README)}
    strength = (root / STRENGTH).read_text(encoding="utf-8")
    made[root / STRENGTH] = with_table(strength, rules_table(), RULES, STRENGTH)
    board, shown = leaderboard.board(leaderboard.read(root / leaderboard.FOLDER)), (root / LEADERBOARD)
    made[shown] = with_table(shown.read_text(encoding="utf-8"), board, ENTRIES, LEADERBOARD)
    if (root / ESTIMATES).is_file():
        scale = (root / SCALE).read_text(encoding="utf-8")
        made[root / SCALE] = with_table(scale, estimates_table(_read(root / ESTIMATES)), FORETOLD, SCALE)
    if (root / DATA).is_file():
        reliable = (root / RELIABLE).read_text(encoding="utf-8")
        made[root / RELIABLE] = with_table(reliable, reliability_tables(_read(root / DATA)), TRIED, RELIABLE)
    if (root / STEPS).is_file():
        tensors = _read(root / TENSORS)["tensors"] if (root / TENSORS).is_file() else ()
        profiles = [_read(path) for path in sorted(root.glob(PROFILES))]
        others = [_read(root / path) if (root / path).is_file() else None for path in (COMPILED, LLAMA, CARD)]
        made[root / FLOOR] = floor.page(_read(root / STEPS), tensors, profiles, *others)
        glue = pd.read_csv(root / GLUE) if (root / GLUE).is_file() else None
        for path, words in CHOOSE.items():
            made[root / path] = choose_page(entries(), scores[0], _read(root / STEPS), glue, words)
        made[root / CARRIED / "steps.csv"] = steps_csv(_read(root / STEPS))
    if scores and (root / GLUE).is_file():
        studies = {name: root / path for name, path in STUDIES.items()}
        runs = {name: pd.read_csv(path) for name, path in studies.items() if path.is_file()}
        made[root / CARRIED / "measured.csv"] = measured_csv(scores[0], runs)
    if (root / JUDGED).is_file():
        made[root / CARRIED / "predictors.csv"] = predictors_csv(_read(root / JUDGED))
    return made


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _abilities(e: Entry) -> tuple[str, ...]:
    can = map(_yes, (e.mergeable, e.lora_export, e.quantised_base, e.on_step))
    name = f"[`{e.name}`](#{e.name})"
    return (name, _code(e.equation), _code(e.parameters), e.sits_on, *can, ", ".join(e.calibration))


def _section(e: Entry) -> str:
    """A method's docstring, with its fields."""
    first, _, rest = cleandoc(METHODS[e.name].__doc__ or "").partition("\n")
    fields = ", ".join(f"`{name} = {value!r}`" for name, value in e.fields.items())
    told = [f"### {e.name}\n", f"    {first.rstrip('.')}\n", f"{rest.strip()}\n"]
    told += [f"Fields: {fields}.\n"] if fields else []
    if (at := METHODS[e.name]().starts_at) != "W":
        told.append(f"Before training phi(W) is {at}.\n")
    if shared := METHODS[e.name]().shared:
        told.append(f"Shared: {', '.join(f'`{k}` by {SCOPES[of]}' for k, of in shared.items())}.\n")
    if relations := relations_of(e.name):
        told.append("Relations:\n\n" + "\n".join(f"- {line}" for line in relations) + "\n")
    return "\n".join(told)


def measured(scores: dict[str, Any]) -> str:
    """The table of scores, each method's mean and spread over the seeds."""
    rows = (
        (
            f"`{row['method']}`",
            f"{100 * row['score']:.1f} ± {100 * row['spread']:.1f}",
            f"{100 * (row['score'] - scores['probe']):+.1f}",
            f"{row['permille']:.2f}",
            f"{row['seconds_per_step']:.2f}" if row["seconds_per_step"] else "",
            f"{row['learning_rate']:g}{SEARCHED if row['searched'] else ''}",
        )
        for row in scores["results"]
    )
    header = ("method", scores["metric"], "over the probe", "per mille", "s/step", "learning rate")
    about = " ".join(filter(None, (scores["about"], scores.get("timed"))))
    return f"{about}\n\n{table(header, rows)}"


def _code(text: str) -> str:
    return f"`{text}`"


def _yes(holds: bool) -> str:
    return "yes" if holds else ""


def main() -> None:
    for path, text in pages(Path()).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)
        print(path)
    if Path(STEPS).is_file():
        floor.picture(_read(Path(STEPS)), Path(FLOOR_PICTURE))
    write(Path(ELLIPSES), ellipses())


if __name__ == "__main__":
    main()
