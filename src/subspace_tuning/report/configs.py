"""The configs of thousands of runs in little room: each key's values once, and for every run which of them it has."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

import yaml

from subspace_tuning.run.recipe import Recipe

FROM_THE_FOLDER = "output"  # says where a run is, not what it is


def fold(texts: Iterable[str]) -> list[dict[str, Any]]:
    """One entry a key: its ``texts``, each as a ``word`` of `subspace train`, and a ``code`` a run (-1: absent).

    The texts are those of `Recipe.dump`. They are cut at the keys, not parsed, which for 5,800 files takes a
    hundredth of the time: joined again, they are the file letter by letter.
    """
    keys: dict[str, dict[str, int]] = {}
    codes: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        for key, block in _blocks(text).items():
            known = keys.setdefault(key, {})
            run_codes = codes.setdefault(key, [])
            run_codes += [-1] * (number - len(run_codes))
            run_codes.append(known.setdefault(block, len(known)))
    return [
        {"texts": list(known), "words": [_word(key, block) for block in known], "codes": codes[key]}
        for key, known in keys.items()
    ]


def _blocks(text: str) -> dict[str, str]:
    """The lines of each top-level key of a mapping in YAML's block style."""
    blocks: dict[str, str] = {}
    key = ""
    for line in text.splitlines(keepends=True):
        if line[0] not in " -#\r\n":
            key = line.partition(":")[0]
        blocks[key] = blocks.get(key, "") + line
    return blocks


def _word(key: str, block: str) -> str:
    """``method=ssb``, quoted for a shell; nothing for what a recipe has anyway."""
    if key == FROM_THE_FOLDER:
        return ""
    try:
        value = yaml.safe_load(block)[key]
    except (yaml.YAMLError, TypeError, KeyError):
        return ""
    known = Recipe.model_fields.get(key)  # other keys are the task's, which may leave them out
    if value == (None if known is None else known.default):
        return ""
    if isinstance(value, dict) and list(value) == ["name"]:
        value = value["name"]
    flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True)
    return shlex.quote(f"{key}={flow.removesuffix('...' + chr(10)).strip()}")
