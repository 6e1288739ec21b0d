"""An adapter on disk and the model it belongs to: a run's folder, an adapter's folder, one of PEFT's own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from subspace_tuning.convert.from_peft import import_peft
from subspace_tuning.errors import BadInput
from subspace_tuning.files.assets import location
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.pretrained import attach, load_model, load_tokenizer
from subspace_tuning.run.skeleton import class_of
from subspace_tuning.tuner.from_peft import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Source:
    """An adapter of ours in a folder."""

    given: Path
    folder: Path  # with its adapter_config.json
    base: str
    make_base: Callable[[], PreTrainedModel]  # a fresh base model, with the head that the adapter wants
    tokenizer: Any

    def load(self) -> PeftModel:
        """The base model with the adapter on it. Raises BadInput where they do not fit."""
        return attach(self.make_base(), self.folder).eval()

    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))


@contextmanager
def opened(given: Path | str, base: str | None = None) -> Iterator[Source]:
    """The adapter of a run's folder or an adapter's folder; one made by PEFT is read as ours, in a folder aside."""
    path = Path(given)
    if not path.is_dir():
        raise BadInput(f"there is no folder {path}; give a run's folder or an adapter's")
    if not (path / CONFIG).is_file() and (path / "config.yaml").is_file():
        yield _of_run(path, base)
        return
    data = _config(path)
    if data.get("peft_type") == "SUBSPACE":
        yield _of_adapter(path, path, data, base)
        return
    with tempfile.TemporaryDirectory() as aside:
        import_peft(path, folder := Path(aside, "adapter"))
        yield _of_adapter(path, folder, _config(folder), base)


def is_adapter(path: Path | str) -> bool:
    """Whether a folder holds an adapter or a run that trained one."""
    return (Path(path) / CONFIG).is_file() or (Path(path) / "adapter").is_dir()


def _config(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} is neither a run nor an adapter: cannot read {folder / CONFIG}: {error}") from error
    if not isinstance(data, dict):
        raise BadInput(f"{folder / CONFIG} is not the config of an adapter")
    return data


def _of_run(path: Path, base: str | None) -> Source:
    run = RunFolder(path)
    recipe, folder = run.recipe(), run.weights()
    if folder.name != "adapter":
        raise BadInput(f"{path} trained every weight; there is no adapter in it")
    name, task = base or recipe.model, recipe.task_object()
    return Source(path, folder, name, lambda: load_model(name, task).model, load_tokenizer(name))


def _of_adapter(given: Path, folder: Path, data: dict[str, Any], base: str | None) -> Source:
    name = base or data.get("base_model_name_or_path")
    if not name:
        raise BadInput(f"{given} does not say which model it belongs to; name it with --base")
    labels = _labels(folder)

    def make() -> PreTrainedModel:
        return load_base(name, data.get("task_type"), labels)

    return Source(given, folder, name, make, find_tokenizer(name))


def load_base(name: str, task_type: str | None = None, num_labels: int | None = None) -> PreTrainedModel:
    """A pretrained model with the head that a task of PEFT's names, or its own. Reads safetensors only."""
    try:
        where = location(name)
        cls = class_of(AutoConfig.from_pretrained(where), task_type)
        head = {"num_labels": num_labels, "ignore_mismatched_sizes": True} if num_labels else {}
        return cls.from_pretrained(where, use_safetensors=True, **head)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        said = str(error).strip().splitlines()
        raise BadInput(f"cannot load the base model {name!r}: {said[0] if said else type(error).__name__}") from error


def find_tokenizer(name: str) -> Any:
    """The model's tokenizer, or None where it has none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(location(name))
    except (OSError, ValueError, KeyError, ImportError):
        return None
    is_empty = len(tokenizer) <= len(tokenizer.all_special_ids)  # made up by transformers where there are no files
    return None if is_empty else tokenizer


def _labels(folder: Path) -> int | None:
    """How many classes a head that was saved along with the adapter has."""
    if not (folder / WEIGHTS).is_file():
        return None
    with safe_open(folder / WEIGHTS, "pt") as file:
        keys = sorted(file.keys())
        heads = [key for key in keys if key.split(".")[2] in ("classifier", "score") and key.endswith(".weight")]
        shapes = [file.get_slice(key).get_shape() for key in heads]
    return next((shape[0] for shape in reversed(shapes) if len(shape) == 2), None)
