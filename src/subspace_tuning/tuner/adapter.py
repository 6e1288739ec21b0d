"""An adapter's folder, read once: whatever command opens it, its config is of the declared types, and its tensors are
complete, of the right shapes, and finite. Nothing is imported, and no size is believed before it has been compared.

Ours, those handed over to PEFT (soft prompts), and PEFT's own that equal one of ours, which are rewritten in memory.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from subspace_tuning.algebra import Weight
from subspace_tuning.errors import BadInput, as_bad_input, short, shown
from subspace_tuning.files.adapter_folder import CONFIG, read_config, read_tensors
from subspace_tuning.method import Method, declared
from subspace_tuning.peft_types.read import PREFIX, from_folder, keywords, renamed
from subspace_tuning.peft_types.table import KINDS
from subspace_tuning.structure.fused import slices
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.kept_along import kept_apart, other_than
from subspace_tuning.tuner.keys import GROUPS, heads, is_own, is_shared, paths_in, renamed_key, seat
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.names import HEADS
from subspace_tuning.tuner.older_names import renaming
from subspace_tuning.tuner.patterns import Patterns
from subspace_tuning.tuner.shared import HOME, key_of
from subspace_tuning.tuner.soft_prompts import NOT_LOOKED_AT, SOFT, soft_config
from subspace_tuning.weights import LayerWeight, weight_of
from subspace_tuning.weights.experts import ExpertWeight, apart, with_experts
from subspace_tuning.weights.slices import Slice

WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS")
BROKEN = (ValueError, TypeError, KeyError, IndexError, RuntimeError, NotImplementedError, MemoryError)


@dataclass(frozen=True)
class Adapter:
    """An adapter: what it says, and its tensors by PEFT's keys."""

    folder: Path
    config: PeftConfig
    weights: Mapping[str, Tensor]
    made_by: str  # PEFT's type, as the folder says it
    frozen: Mapping[str, Tensor] = field(default_factory=dict)  # what PEFT kept along of the base, by name

    def resolved(self, path: str) -> Method:
        """The method of one of its modules."""
        assert isinstance(self.config, SubspaceConfig)
        return self.config.resolved(path)

    @property
    def equal_on(self) -> tuple[type[nn.Module], ...]:
        """The only layers on which PEFT's type is ours; none named where it is on all."""
        return KINDS[self.made_by].layers if self.made_by in KINDS else ()

    @cached_property
    def seats(self) -> dict[str, dict[str, Tensor]]:
        """By module, the parameters and stored numbers of its method."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in self.weights.items():
            if place := seat(key):
                found.setdefault(place[0], {})[place[1]] = value
        return found

    @cached_property
    def shared(self) -> dict[str, Tensor]:
        """What layers share, by the names of the groups that do."""
        head = len(f"{PREFIX}{HOME}.")
        return {key[head:]: value for key, value in self.weights.items() if is_shared(key)}

    def seated(self, layers: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
        """By module, the parameters and stored numbers of its method, those that it shares included."""
        if not self.shared:
            return self.seats
        paths = sorted({*self.seats, *(self._targets(layers) or ())} & set(layers))
        found = {**self.seats, **{path: dict(self.seats.get(path, {})) for path in paths}}
        unread = set(self.shared)
        for path in paths:
            method = self.resolved(path)
            for name in method.shared:
                key = key_of(method, name, path, _frozen(layers[path]).shape)
                if key not in self.shared:
                    raise self._misfit(f"it lacks {key}, which {path} shares with other layers")
                found[path][name] = self.shared[key]
                unread.discard(key)
        if unread:
            raise self._misfit(f"it holds {short(min(unread))}, which no layer shares")
        return found

    def check(self, model: nn.Module) -> None:
        """Raise BadInput unless each layer that the adapter tunes is one of the model's, and has what it needs."""
        if not isinstance(self.config, SubspaceConfig):
            return
        every = [*with_experts(_inner(model)), *slices(_inner(model)).items()]
        layers = {name: module for name, module in every if is_own(name)}
        self._patterns.try_on(layers)
        seats = self.seated(layers)
        for path, values in seats.items():
            if path not in layers:
                raise self._misfit(f"{type(_inner(model)).__name__} has no module {shown(path)}")
            if (equal := self.equal_on) and not isinstance(_frozen(layers[path]).layer, equal):
                kinds, kind = " or ".join(cls.__name__ for cls in equal), type(_frozen(layers[path]).layer).__name__
                raise self._misfit(f"PEFT's {self.made_by} is ours on {kinds} alone, and {path} is a {kind}")
            with self._at(path):
                W = _frozen(layers[path])
                for own in apart(values, W.layer.count) if isinstance(W, ExpertWeight) else [values]:
                    self._check_seat(path, own, W)
        chosen = self._targets(layers)
        if chosen is not None and (lost := sorted(chosen - set(seats))):
            raise self._misfit(f"it lacks the parameters of {lost[0]}" + _more(lost))
        if chosen is not None and (more := sorted(set(seats) - chosen)):
            raise self._misfit(f"it holds parameters of {more[0]}, which its target_modules leave out")
        if isinstance(model, PreTrainedModel):
            self._check_whole(model)
        if other := other_than(_inner(model), self.frozen):
            raise self._misfit(f"it was trained beside another {other}, which it keeps along")

    def named_as(self, model: nn.Module) -> Adapter:
        """The same adapter by the names of a model of today, where PEFT saved it with an older transformers."""
        own = {name for name, _ in with_experts(_inner(model))}
        if self.made_by not in KINDS or own.issuperset(self.seats):
            return self
        today = renaming(_inner(model))
        paths = {path: today(f"{path}.weight").removesuffix(".weight") for path in self.seats}
        config = copy.deepcopy(self.config)
        assert isinstance(config, SubspaceConfig)
        config.target_modules, config.layers_to_transform, config.layers_pattern = set(paths.values()), None, None
        config.method_pattern = {re.escape(new): self.resolved(old) for old, new in paths.items()}
        config.rank_pattern, config.alpha_pattern = {}, {}
        weights = {PREFIX + renamed_key(key.removeprefix(PREFIX), paths, today): v for key, v in self.weights.items()}
        return replace(self, config=config, weights=weights)

    def on(self, model: nn.Module, name: str = "default") -> PeftModel:
        """The model with this adapter on it. Raises BadInput where they do not fit."""
        return self.named_as(model)._put_on(model, name)

    def _put_on(self, model: nn.Module, name: str) -> PeftModel:
        self.check(model)
        config = copy.deepcopy(self.config)
        config.inference_mode = True
        with self._at():
            if isinstance(model, PeftModel):
                model.add_adapter(name, config)
            else:
                model = cast(PeftModel, get_peft_model(cast(Any, model), config, adapter_name=name))
            config.base_model_name_or_path = self.config.base_model_name_or_path
            lost = sorted(set(heads(model, name)) - set(self.weights))
            if lost:
                raise self._misfit(f"it lacks {lost[0].removeprefix(PREFIX)}" + _more(lost))
            done: Any = set_peft_model_state_dict(model, dict(self.weights), name)
        if done.unexpected_keys and not config.is_prompt_learning:
            raise self._misfit(f"it holds {short(done.unexpected_keys[0])}, which matches nothing in it")
        if lost := [key for key in done.missing_keys if any(f".{group}.{name}." in key for group in (*GROUPS, HOME))]:
            raise self._misfit(f"it lacks {lost[0]}" + _more(lost))
        return model

    def _check_seat(self, path: str, given: Mapping[str, Tensor], W: LayerWeight) -> None:
        n, m = W.shape
        method = self.resolved(path).fitted(n, m)
        method.check(n, m)
        for name, value in given.items():
            if not value.is_floating_point() and value.dtype != torch.bool:
                _check_places(f"{path}: {name}", value, n * m)
        wanted = {**method.parameters(n, m), **method.stored(n, m)}
        if set(given) != set(wanted):
            outlines = {name: value.to("meta") for name, value in given.items()}
            made = method.constants(Weight(torch.empty(n, m, device="meta")))
            given = method.unpacked(outlines, made, n, m)
        shapes = {name: start.shape for name, start in sorted(wanted.items())}
        if (found := {name: tuple(value.shape) for name, value in sorted(given.items())}) != shapes:
            raise self._misfit(f"size mismatch: {path} takes {shapes}, got {found}")
        for name, start in wanted.items():
            if _kind(given[name].dtype) != _kind(start.dtype or torch.float32):
                raise self._misfit(f"{path} takes other numbers for {name} than {given[name].dtype}")

    def _check_whole(self, model: PreTrainedModel) -> None:
        """Of modules that were saved whole, such as a head, which may have another number of classes than the model."""
        names = [*(getattr(self.config, "modules_to_save", None) or ())]
        names += HEADS if self.config.task_type in WITH_HEAD else ()
        chosen = [name for name, _ in model.named_modules() if name.endswith(tuple(names))] if names else []
        own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        wanted = {key for key in own if any(key.startswith(f"{name}.") for name in chosen)}
        given = {
            key.removeprefix(PREFIX): tuple(value.shape)
            for key, value in self.weights.items()
            if not (seat(key) or is_shared(key))
        }
        if lost := sorted(wanted - set(given)):
            raise self._misfit(f"it lacks {lost[0]}{_more(lost)}")
        for key, shape in given.items():
            free = 1 if HEADS & set(key.split(".")) else 0
            if key not in own:
                raise self._misfit(f"it holds {short(key)}, which matches nothing in it")
            if shape[free:] != own[key][free:] or len(shape) != len(own[key]):
                raise self._misfit(f"size mismatch: {key} is {own[key]}, got {shape}")

    def _targets(self, layers: Mapping[str, nn.Module]) -> set[str] | None:
        """The modules that the config names; None where it leaves that to the kind of model."""
        given = getattr(self.config, "target_modules", None)
        if given in (None, "all-linear"):
            return None
        with self._at():
            named = {name for name in layers if name and check_target_module_exists(self.config, name)}
        return {name for name in named if not (isinstance(layers[name], Slice) and name.rpartition(".")[0] in named)}

    @cached_property
    def _patterns(self) -> Patterns:
        return Patterns(self.config)

    def _misfit(self, why: str) -> BadInput:
        return BadInput(f"the adapter {self.folder} does not fit this model: {why}")

    @contextmanager
    def _at(self, path: str = "") -> Iterator[None]:
        """What goes wrong in here, does so because of what the adapter holds."""
        try:
            yield
        except BadInput:
            raise
        except BROKEN as error:
            raise self._misfit(f"{path}: {_first(error)}" if path else _first(error)) from error


def read(folder: Path | str) -> Adapter:
    """The adapter of a folder, ours or PEFT's own. Raises BadInput for what is damaged or has no counterpart here."""
    folder = Path(folder)
    data = read_config(folder)
    where, kind = str(folder / CONFIG), str(data.get("peft_type"))
    if kind == "SUBSPACE" or kind in SOFT:
        config = _ours(data, where) if kind == "SUBSPACE" else soft_config(kind, data, where)
        weights = read_tensors(folder)
    else:
        theirs, source = from_folder(folder)
        with as_bad_input((ValueError, TypeError, KeyError)):
            config = _config(keywords(theirs, source), where)
        weights, packed = renamed(theirs, source, config.resolved)
        config.packed |= packed
    weights, frozen = kept_apart(weights)
    _check_kept(config, weights, folder)
    return Adapter(folder, config, weights, kind, frozen)


def _ours(data: Mapping[str, Any], where: str) -> SubspaceConfig:
    values = {key: value for key, value in data.items() if key not in NOT_LOOKED_AT}
    for key in values:
        if key not in {f.name for f in fields(SubspaceConfig)}:
            raise BadInput(f"{where} holds {shown(key)}, which nothing here knows")
    return _config(values, where)


def _config(values: dict[str, Any], where: str) -> SubspaceConfig:
    with as_bad_input((ValueError, TypeError, OverflowError)):
        declared.check(SubspaceConfig, values, where)
        config = SubspaceConfig(**values)
    patterns = Patterns(config)  # first of all: building a layer tries them
    assert patterns
    return config


def _check_kept(config: PeftConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Raise BadInput where a module that was saved whole, such as a head, is not there."""
    names = set(getattr(config, "modules_to_save", None) or ())
    held = {part for key in weights for part in paths_in(key)}
    lost = sorted(name for name in names - HEADS if name not in held)
    if names & HEADS and not names & HEADS & held:
        lost += sorted(names & HEADS)
    if lost:
        raise BadInput(f"the adapter {folder} lacks {lost[0]}, which its modules_to_save name; was it saved half-way?")


def _inner(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _frozen(layer: nn.Module) -> LayerWeight:
    return layer.frozen if isinstance(layer, SubspaceLayer) else weight_of(layer)


def _kind(dtype: torch.dtype) -> str:
    return "truth" if dtype == torch.bool else "real" if dtype.is_floating_point else "whole"


def _check_places(name: str, places: Tensor, size: int) -> None:
    if not 0 <= int(places.min()) <= int(places.max()) < size:
        raise ValueError(f"{name} names places outside the weight, which has {size} entries")
    if len(places.unique()) != places.numel():
        raise ValueError(f"{name} names a place twice")


def _first(error: BaseException) -> str:
    """The most telling line of an error: of a long list of mismatches the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0] if lines else type(error).__name__)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
