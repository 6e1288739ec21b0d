"""What the base model was judged to be, kept in the user's cache: a sweep asks for it hundreds of times.

The key is what decides the verdict: the content of the checkpoint, the judgement, the rows, precision and versions,
ours among them. A judgement by files of which only it knows is made every time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import xxhash

from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.files.aside import write
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.files.fetch import cache_folder
from subspace_tuning.judge import Judgement, Verdict, to_data
from subspace_tuning.rows import Records
from subspace_tuning.rows.kept import digest
from subspace_tuning.version import VERSION

FOLDER = "verdicts"
BLOCK = 1 << 22


def kept(
    model: str, how: dict[str, Any], judgement: Judgement, rows: Records | None, judge: Callable[[], Verdict]
) -> Verdict:
    """The verdict on a base model, read or made; ``how``: what else of the run decides it, such as the dtype."""
    if not judgement.is_told:
        return judge()
    said = {key: value for key, value in to_data(judgement).items() if key != "name"}
    on = None if rows is None else [rows.digest(), rows.numbers]
    path = cache_folder() / FOLDER / f"{digest([_content(model), how, said, on, _versions(judgement)])[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Verdict.from_data(json.loads(path.read_text(encoding="utf-8")))
    verdict = judge()
    with suppress(OSError, BadInput, RunFailed):  # a cache that is full, or not ours to write
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(verdict.to_data()))
    return verdict


def _content(model: str) -> str:
    folder = Path(Checkpoint(model).folder)
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".json", ".jinja", ".model")]
    return _hash(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()))


@lru_cache(maxsize=16)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    told = xxhash.xxh3_128()
    for path, *_ in files:
        told.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                told.update(block)
    return told.hexdigest()


def _versions(judgement: Judgement) -> list[str]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    others = ("torch", "transformers", *judgement.packages)
    return [device, VERSION, *map(_version, others)]


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return ""
