"""What was said before training, beside what came of it: an advice and an estimate, as their commands print them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from subspace_tuning.bench.needs import PARTS
from subspace_tuning.errors import BadInput


def read(path: Path | None, by: str) -> Any:
    """The JSON of a file. Raises BadInput, which says what writes it, where there is none."""
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}; `{by}` writes it") from error


def advice(said: Any) -> dict[str, Any] | None:
    """The words and the short list: method, parameters and reasons of each. Raises BadInput for anything else."""
    if said is None:
        return None
    try:
        short = [
            {"method": _label(c["method"]), "parameters": int(c["parameters"]), "why": "; ".join(c["reasons"])}
            for c in said["short_list"]
        ]
        return {"words": [str(line) for line in said["words"]], "short": short}
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the advice lacks {error}; expected what `subspace advise --json` prints") from error


def estimate(said: Any) -> dict[str, Any] | None:
    """What a step was said to need, in bytes and FLOPs, by kind. Raises BadInput for anything else."""
    if said is None:
        return None
    try:
        told = said["estimate"]
        rows = [{"what": what, "bytes": int(told[name])} for name, what in PARTS.items() if told.get(name)]
        return {"rows": rows, "trained": int(told["trained"]), "flops": float(told["flops"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"the estimate lacks {error}; expected what `subspace estimate --json` prints") from error


def _label(method: Any) -> str:
    """``lora(r=8)`` of a method as plain data; members of a composition with bars between them."""
    parts = method if isinstance(method, list) else [method]
    named = [part if isinstance(part, str) else str(part["name"]) for part in parts]
    ranks = [f"(r={part['r']})" if isinstance(part, dict) and "r" in part else "" for part in parts]
    return "|".join(name + rank for name, rank in zip(named, ranks, strict=True))
