"""The advice as one HTML file that asks nothing of any network, in the style of the report."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import yaml

from subspace_tuning.advise.advice import Advice
from subspace_tuning.report.page import part

REACHED = ("method", "kappa", "at the start", "parameters", "per mille")
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p id="about">{about}</p></header>
<main>{sections}</main>
</body>
</html>
"""


def page(a: Advice, title: str) -> str:
    """The page: words, the short list, what families reach, where the gradient is, ranks to paste, recipes."""
    found = a.found
    sections = [
        _section("In words", "".join(f"<p>{html.escape(said)}</p>" for said in a.words), "words"),
        _section("Short list", _short(a)),
        _section("What families reach", _table(REACHED, a.reached)),
        _section("Where the gradient is", _layers(a)),
        _section("LoRA by water-filling", f"<pre>{html.escape(yaml.safe_dump(a.pattern, sort_keys=False))}</pre>"),
        _section(
            "Recipes", "".join(f"<h3>{html.escape(k)}</h3><pre>{html.escape(v)}</pre>" for k, v in a.files.items())
        ),
        _section("Left out", _table(("method", "why"), sorted(a.left_out.items()))),
    ]
    about = f"{found.parameters:,} parameters, a budget of {a.wanted.budget:,}; gradients of {found.rows} rows."
    return PAGE.format(
        title=html.escape(title), about=html.escape(about), style=part("page.css"), sections="\n".join(sections)
    )


def _section(title: str, content: str, name: str = "") -> str:
    return f"<section{f' id={name}' if name else ''}><h2>{title}</h2>{content}</section>"


def _short(a: Advice) -> str:
    items = (
        f"<li><strong>{html.escape(c.told)}</strong><ul>"
        + "".join(f"<li>{html.escape(why)}</li>" for why in a.reasons(c))
        + "</ul></li>"
        for c in a.short
    )
    return f"<ol>{''.join(items)}</ol>"


def _layers(a: Advice) -> str:
    rows = []
    for name, share in a.energies:
        n, m = a.found.seats[name].shape
        ranks = str(a.ranks.filled.get(name, 0)) if n else ""
        rows.append((name, f"{n} x {m}" if n else f"bias of {m}", f"{100 * share:.2f}", ranks))
    return _table(("weight", "size", "% of the energy", "rank by water-filling"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
