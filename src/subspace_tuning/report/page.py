"""A report's data -> one HTML file that asks nothing of any network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from functools import cache
from importlib.resources import files
from math import isfinite
from typing import Any

SCRIPTS = ("data.js", "table.js", "charts.js", "panels.js", "retention.js", "page.js")


def page(shown: dict[str, Any], behind_clicks: dict[str, Any], version: str = "") -> str:
    """The page with its data. ``version``: of one that is served, and asks its server whether there is a newer."""
    script = "\n".join(part(name) for name in SCRIPTS)
    return _fill(
        part("page.html"),
        {
            "title": html.escape(shown["title"]),
            "connect": "'self'" if version else "'none'",
            "version": html.escape(version),
            "words": "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in shown["words"]),
            "style": part("page.css"),
            "data": to_json(shown).replace("<", "\\u003c"),
            "details": _packed(to_json(behind_clicks).encode()),
            "plotly": _plotly(),
            "script": f'"use strict";\n{script}',
        },
    )


def to_json(data: Any) -> str:
    """Compact JSON; NaN and infinity, which JSON has not, are null."""
    return json.dumps(_finite(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data


def _fill(template: str, parts: dict[str, str]) -> str:
    """Put each part in place of its <!--name-->, once: what a part says is not looked at again."""
    return re.sub(r"<!--(\w+)-->", lambda found: parts[found[1]], template)


def part(name: str) -> str:
    """A file of the page, as it stands."""
    return (files("subspace_tuning.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Plotly's JavaScript, packed: 4.8 MB become 2."""
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs().encode())


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()
