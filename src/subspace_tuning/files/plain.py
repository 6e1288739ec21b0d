"""JSON files that others wrote, as plain data or one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from subspace_tuning.errors import BadInput

LARGEST = 64 << 20  # bytes; the index of a model of a trillion parameters has a tenth of it


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The object that a JSON file holds. Raises BadInput, with ``what`` the file is, for anything else."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{what} {path} is larger than {LARGEST >> 20} MB; it is not what it should be")
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except BadInput:
        raise
    except RecursionError as error:
        raise BadInput(f"cannot read {what} {path}: it is nested too deeply to be one") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {what} {path}: {error}") from error
    if not isinstance(data, dict):
        raise BadInput(f"{what} {path} holds {type(data).__name__}, expected an object with names and values")
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
