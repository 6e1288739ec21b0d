"""JSON that others wrote, as plain data or one sentence; plain data as JSON, whatever its numbers."""

from __future__ import annotations

import json
import math
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


def dump(data: Any) -> str:
    """Plain data as JSON, which has no NaN and no infinity: null in their place."""
    return json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
