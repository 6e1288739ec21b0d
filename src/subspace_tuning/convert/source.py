"""An adapter on disk and the model it belongs to: a run's folder, an adapter's folder, one of PEFT's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from subspace_tuning.errors import BadInput
from subspace_tuning.files.adapter_folder import CONFIG
from subspace_tuning.files.assets import location
from subspace_tuning.files.checkpoint import shards
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.pretrained import cannot_load, load_model, load_processor
from subspace_tuning.run.skeleton import class_of
from subspace_tuning.tuner.adapter import Adapter, read


@dataclass(frozen=True)
class Source:
    """An adapter and what it belongs to."""

    given: Path
    adapter: Adapter
    base: str
    make_base: Callable[[], PreTrainedModel]  # a fresh base model, with the head that the adapter wants
    tokenizer: Any

    def load(self) -> PeftModel:
        """The base model with the adapter on it. Raises BadInput where they do not fit."""
        return self.adapter.on(self.make_base()).eval()


def opened(given: Path | str, base: str | None = None) -> Source:
    """The adapter of a run's folder or an adapter's folder; one made by PEFT is read as ours."""
    path = Path(given)
    if not path.is_dir():
        raise BadInput(f"there is no folder {path}; give a run's folder or an adapter's")
    if (path / CONFIG).is_file():
        return _of_adapter(path, read(path), base)
    if (path / "config.yaml").is_file():
        return _of_run(path, base)
    raise BadInput(f"{path} is neither a run nor an adapter: it has no {CONFIG}")


def is_adapter(path: Path | str) -> bool:
    """Whether a folder holds an adapter or a run that trained one."""
    return (Path(path) / CONFIG).is_file() or (Path(path) / "adapter").is_dir()


def _of_run(path: Path, base: str | None) -> Source:
    run = RunFolder(path)
    recipe, folder = run.recipe(), run.weights()
    if folder.name != "adapter":
        raise BadInput(f"{path} trained every weight; there is no adapter in it")
    name, task = base or recipe.model, recipe.task_object()
    return Source(path, read(folder), name, lambda: load_model(name, task).model, load_processor(name, task.processor))


def _of_adapter(given: Path, adapter: Adapter, base: str | None) -> Source:
    name = base or adapter.config.base_model_name_or_path
    if not name:
        raise BadInput(f"{given} does not say which model it belongs to; name it with --base")

    def make() -> PreTrainedModel:
        return load_base(name, adapter.config.task_type, _labels(adapter.weights))

    return Source(given, adapter, name, make, find_tokenizer(name))


def load_base(name: str, task_type: str | None = None, num_labels: int | None = None) -> PreTrainedModel:
    """A pretrained model with the head that a task of PEFT's names, or its own. Reads safetensors only."""
    try:
        where = location(name)
        shards(Path(where))  # transformers opens whatever an index names
        cls = class_of(AutoConfig.from_pretrained(where, trust_remote_code=False), task_type)
        head = {"num_labels": num_labels, "ignore_mismatched_sizes": True} if num_labels else {}
        return cls.from_pretrained(where, use_safetensors=True, trust_remote_code=False, **head)
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise cannot_load("base model", name, error) from error


def find_tokenizer(name: str) -> Any:
    """The model's tokenizer, or None where it has none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(location(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError):
        return None
    is_empty = len(tokenizer) <= len(tokenizer.all_special_ids)  # made up by transformers where there are no files
    return None if is_empty else tokenizer


def _labels(weights: Mapping[str, Tensor]) -> int | None:
    """How many classes a head that was saved along with the adapter has."""
    ends = tuple(f".{head}{inner}.weight" for head in ("classifier", "score") for inner in ("", ".out_proj"))
    sizes = [len(weights[key]) for key in sorted(weights) if key.endswith(ends) and weights[key].dim() == 2]
    return sizes[-1] if sizes else None
