"""Modules that stand on packages which not everybody has installed."""

from __future__ import annotations

import importlib
from typing import Any

from subspace_tuning.errors import BadInput


def optional(module: str, purpose: str, extra: str) -> Any:
    """The module. Raises BadInput that names the extra where a package that it needs is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and error.name.startswith("subspace_tuning"):
            raise
        raise BadInput(f"{purpose} ({error}): pip install 'subspace-tuning[{extra}]'") from error
