"""A checkpoint's tensors by the names, and in the form, that they have in a model of today.

Older checkpoints, and most mixtures on the hub, keep each expert apart, its gate and its up too; a model keeps them as
one parameter. Pieces are joined as transformers joins them on loading, those of one expert alone where that will do.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import MergeModulelist, WeightConverter, dot_natural_key, rename_source_key

from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.tuner.older_names import renaming


@dataclass(frozen=True)
class Pieces:
    """Keys of a checkpoint, by the pattern that they fit, that make one tensor of the model."""

    name: str
    converter: WeightConverter
    keys: dict[str, list[str]]

    @property
    def by_expert(self) -> bool:
        """Whether the i-th keys alone make the i-th part of the tensor."""
        first, *rest = self.converter.operations
        dims = [getattr(op, d, None) for op in rest for d in ("dim", "dim0", "dim1") if hasattr(op, d)]
        return isinstance(first, MergeModulelist) and first.dim == 0 and 0 not in dims and len(dims) >= len(rest)

    def joined(self, tensors: dict[str, Tensor], model: Any) -> Tensor:
        """The tensor, given those of the keys."""
        converter: Any = copy.deepcopy(self.converter)
        for pattern, keys in self.keys.items():
            for key in keys:
                if key in tensors:
                    converter.add_tensor(self.name, key, pattern, tensors[key])
        (made,) = converter.convert(self.name, model=model, config=model.config).values()
        return made[0] if isinstance(made, list) else made


class Named:
    """The tensors of a checkpoint under a model's names."""

    def __init__(self, checkpoint: Checkpoint, model: nn.Module):
        self.checkpoint, self.model = checkpoint, model
        today = renaming(model)
        held, pieces = _pieces(checkpoint, model)
        self._pieces = pieces
        self._keys = {today(key): key for key in checkpoint.keys() if key not in held}  # noqa: SIM118

    @property
    def keys_of(self) -> dict[str, str]:
        """Names of tensors that are one of the checkpoint's -> its key there."""
        return self._keys

    @property
    def name(self) -> str:
        return self.checkpoint.name

    def __contains__(self, name: str) -> bool:
        return name in self._keys or name in self._pieces

    def names(self) -> list[str]:
        return sorted([*self._keys, *self._pieces])

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._keys:
            return self.checkpoint.shape(self._keys[name])
        found = self._pieces[name]
        sizes = {key: self.checkpoint.shape(key) for keys in found.keys.values() for key in keys}
        outlines = {key: torch.empty(size, device="meta") for key, size in sizes.items()}
        return tuple(found.joined(outlines, self.model).shape)

    def stored(self, name: str) -> Tensor:
        """A tensor in its own precision."""
        return self._made(name, self.checkpoint.stored)

    def read(self, name: str, at: int | None = None) -> Tensor:
        """A tensor, or part of it along the first dimension, in single precision."""
        return self._made(name, self.checkpoint.read, at)

    def _made(self, name: str, read: Any, at: int | None = None) -> Tensor:
        if name in self._keys:
            return read(self._keys[name]) if at is None else read(self._keys[name], at)
        found = self._pieces[name]
        alone = at is not None and found.by_expert
        wanted = [
            key for keys in found.keys.values() for key in (keys[at : at + 1] if alone and at is not None else keys)
        ]
        made = found.joined({key: read(key) for key in wanted}, self.model)
        return made if at is None else made[0 if alone else at]


def _pieces(checkpoint: Checkpoint, model: nn.Module) -> tuple[set[str], dict[str, Pieces]]:
    """What a checkpoint keeps in pieces, by the model's names, and the keys of all pieces."""
    if not isinstance(model, PreTrainedModel):
        return set(), {}
    transforms: list[Any] = get_model_conversion_mapping(model)
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    renamings = [t for t in transforms if t not in converters]
    of_pattern = {p: t for t in converters if len(t.target_patterns) == 1 for p in t.source_patterns}
    own: Any = model.state_dict()
    held: set[str] = set()
    found: dict[str, Pieces] = {}
    for key in sorted(checkpoint.keys(), key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, own)
        if key not in own and name in own and pattern in of_pattern:
            pieces = found.setdefault(name, Pieces(name, of_pattern[pattern], {}))
            pieces.keys.setdefault(pattern, []).append(key)
            held.add(key)
    return held, found
