"""The one model: puts layers in place, checks merges, starts the clocks of training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers import PreTrainedModel

from subspace_tuning.errors import few
from subspace_tuning.methods.on_block import OnBlock
from subspace_tuning.tuner import blocks, origin, reached
from subspace_tuning.tuner.callback import join_trainers
from subspace_tuning.tuner.clock import Clock
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.experts import SubspaceExperts
from subspace_tuning.tuner.follow import check_alone, follow, unfollow
from subspace_tuning.tuner.layer import BASE, SubspaceLayer
from subspace_tuning.tuner.names import Names, Unmatched
from subspace_tuning.tuner.offload import keep_here
from subspace_tuning.tuner.pieces import check_not_split
from subspace_tuning.tuner.read import SubspaceRead, only_read, read_by
from subspace_tuning.tuner.replace import Owners
from subspace_tuning.tuner.room import Room
from subspace_tuning.tuner.routed import copies, routed
from subspace_tuning.tuner.saved import check_fits, check_name, each_as, named_layers, nameless, of_adapter, of_model
from subspace_tuning.tuner.seating import seat_named, unseat_idle, wrap_again
from subspace_tuning.tuner.shared import HOME, SharedParameters
from subspace_tuning.tuner.strength import tell_when_saving
from subspace_tuning.tuner.targets import all_linear, default_targets
from subspace_tuning.tuner.tied import check_untied, untie
from subspace_tuning.weights import Unsupported
from subspace_tuning.weights.experts import Experts
from subspace_tuning.weights.slices import Slice, move_slices, tuned_slices


def layers(model: nn.Module) -> Iterator[SubspaceLayer]:
    """The tuned layers of a model."""
    return (m for m in model.modules() if isinstance(m, SubspaceLayer))


def _check_ready(module: nn.Module, args: Any) -> None:
    """Before training: nothing that a method waits for is missing."""
    if not (module.training and torch.is_grad_enabled()):
        return
    for layer in layers(module):
        for adapter in [] if layer.disable_adapters else layer.active_adapters:
            if adapter in layer.uncalibrated:
                raise RuntimeError(
                    f"{layer.methods[adapter].describe()} starts from data and has seen none: run "
                    "subspace_tuning.calibrate(model, batches) with a few batches before training"
                )


def layer_on(base: nn.Module, owner: nn.Module, name: str) -> SubspaceLayer:
    """A tuned layer around a frozen one, which its owner has under a name."""
    if isinstance(base, Experts):
        return SubspaceExperts(base)
    if name in read_by(owner):
        return SubspaceRead(base, only=name in only_read(owner))
    return SubspaceLayer(base)


def _called(module: nn.Module, args: Any, output: Any) -> None:
    """A hook that does nothing: where one is, nn.TransformerEncoderLayer calls its parts instead of a fused kernel."""


class SubspaceModel(BaseTuner):
    """PEFT's tuner for every method of the registry."""

    prefix = "subspace_"
    tuner_layer_cls = SubspaceLayer

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.method.sits_on == "tokens":
            raise ValueError(
                f"{peft_config.method.name} sits on tokens and is PEFT's own method: "
                "call get_peft_model(model, config.handed_over())"
            )
        self._room.named = isinstance(peft_config.target_modules, list | tuple | set)
        if peft_config.target_modules is None:
            peft_config.target_modules = default_targets(peft_config.resolved().places, self.model, peft_config)
        elif peft_config.target_modules == "all-linear" and isinstance(self.model, PreTrainedModel):
            peft_config.target_modules = all_linear(self.model, peft_config)
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        self._unwrapped = seat_named(model, partial(self._check_target_module_exists, peft_config))
        self._owners = Owners(model)

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: SubspaceConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, SubspaceLayer) else layer_on(target, parent, target_name)
        try:
            if isinstance(layer.get_base_layer(), Slice) and self._sits_on_whole(peft_config, current_key):
                return
            method = self._room.taken(peft_config.resolved(current_key), layer, current_key)
            if method is None:
                return
            if isinstance(method, OnBlock):
                blocks.attach(self.model, current_key, method)
            if layer is not target:
                layer.set_adapter(self.active_adapters)
            layer.dispatched = hasattr(self.model, "hf_device_map")
            layer.path = current_key
            home = SharedParameters.of(self.model) if method.shared else None
            layer.add(adapter_name, method, peft_config.init_weights, home)
            if layer.dispatched:
                keep_here(self.model, current_key, layer, layer.like.device)
            if peft_config.packed:
                layer.unread.add(adapter_name)
        except Unsupported as error:
            raise Unsupported(f"{current_key}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{current_key}: {error}") from None
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)
            if tuned_slices(target):
                move_slices(target, layer)
        if isinstance(parent, nn.TransformerEncoderLayer) and not layer.answers_reading:
            layer.register_forward_hook(_called)
        if adapter_name not in self.active_adapters:
            layer.subspace_params[adapter_name].requires_grad_(False)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype and hasattr(self.model, HOME):
            SharedParameters.of(self.model).widen(adapter_name)

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        """PEFT's, which looks at layers only: what they share stays as they have set it."""
        shared = [(p, p.requires_grad) for p in SharedParameters.of(model).parameters()] if hasattr(model, HOME) else []
        super()._mark_only_adapters_as_trainable(model)
        for p, trained in shared:
            p.requires_grad_(trained)

    def _sits_on_whole(self, peft_config: SubspaceConfig, key: str) -> bool:
        """Whether a config names the fused weight that the layer called key is a slice of."""
        return bool(self._check_target_module_exists(peft_config, key.rpartition(".")[0]))

    def _post_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        waiting = any(layer.uncalibrated for layer in layers(model))
        if waiting and not any(hook is _check_ready for hook in model._forward_pre_hooks.values()):
            model.register_forward_pre_hook(_check_ready)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        tell_when_saving(model, adapter_name)
        held = of_adapter(state_dict, model, adapter_name)
        before = set(held)
        if isinstance(model, PeftModel):  # transformers' own loading knows no other form
            for path, layer in named_layers(model, adapter_name):
                each_as(held, f"{path}.subspace_params.{adapter_name}.", partial(layer.packed, adapter_name))
        config.packed = set(held) != before
        config.sketch = origin.sketch(model, adapter_name)
        return held

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return nameless(key, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        held = dict(state_dict)
        for path, layer in named_layers(model, adapter_name):
            unpack = partial(layer.unpacked, adapter_name)
            for start in ("", "base_model.model."):  # models with an adapter of transformers' own go without
                each_as(held, f"{start}{path}.subspace_params.", unpack)
            layer.unread.discard(adapter_name)
        origin.compare(model, adapter_name, config.sketch)
        held = of_model(held, model, adapter_name)
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, held)
        check_fits(found, model, adapter_name)
        return found

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Raises NotImplementedError: sums of adapters are made on disk, by ``subspace combine``."""
        raise NotImplementedError(
            "subspace-tuning has no add_weighted_adapter; activate several adapters with set_adapter"
        )

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """Tied weights are no concern here: merging unties what it changes (see ``SubspaceLayer.merge``)."""

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put a module in place of another, wherever else in the model that one stands too."""
        setattr(parent, child_name, new_module)  # its parameters are made where they belong
        self._owners.replace(child, new_module)

    def _check_merge_allowed(self) -> None:
        for layer in layers(self.model):
            for adapter in layer.active_adapters:
                method = layer.methods.get(adapter)
                if method is not None and not method.mergeable:
                    raise ValueError(
                        f"{method.describe()} is not a map of the weight alone and cannot be merged; keep it unmerged"
                    )

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter in place, everywhere or, when a layer refuses it, nowhere."""
        check_name(adapter_name)
        check_not_split(model)
        self._room, self._unwrapped = Room(), []
        named = Names(model, self.peft_config[adapter_name])  # type: ignore[arg-type]
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            if lost := named.lost(self.targeted_module_names):
                warnings.warn(lost, Unmatched, stacklevel=2)
            self._room.tell(config := self.peft_config[adapter_name])
            (follow if config.ensure_weight_tying else check_alone)(model, adapter_name)  # type: ignore[attr-defined]
            reached.watch(model)
        except Exception:
            for name, layer in [(k, m) for k, m in model.named_modules() if isinstance(m, SubspaceLayer)]:
                if adapter_name in layer.methods:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        layer.delete_adapter(adapter_name)
                if not layer.methods:
                    parent, _, child = name.rpartition(".")
                    setattr(model.get_submodule(parent), child, layer.base_layer)
            SharedParameters.tidy(model)
            raise
        finally:
            self.__dict__.pop("_owners", None)
            wrap_again(self._unwrapped)
            unseat_idle(model)
            unfollow(model)
        join_trainers()
        clock = Clock(adapter_name, self.peft_config[adapter_name].total_steps)  # type: ignore[attr-defined]
        for path, layer in named_layers(model, adapter_name):
            layer.path, layer.clocks[adapter_name] = path, clock

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter everywhere; were it the only active one, the first that is left becomes active."""
        active = [a for a in self.active_adapters if a != adapter_name]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* no adapter is active")
            super().delete_adapter(adapter_name)
        SharedParameters.tidy(self.model)
        self.active_adapter = active
        if not active and self.peft_config:
            first = next(iter(self.peft_config))
            warnings.warn(f"the active adapter {adapter_name!r} is deleted; {first!r} is active now", stacklevel=2)
            self.set_adapter(first)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge in every layer or, when one of them refuses, in none."""
        held = {layer: list(layer.merged_adapters) for layer in layers(self.model)}
        try:
            super().merge_adapter(adapter_names, safe_merge)
        except Exception:
            for layer, names in held.items():
                if layer.merged_adapters != names:
                    layer.unmerge()
                    if names:
                        layer.merge(adapter_names=names)
            raise

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            check_untied(self.model)
            for layer in layers(self.model):
                layer.check_merge(adapter_names)
        shares = any(layer.rivals() for layer in layers(self.model))
        if merge and (safe_merge or shares):  # look at every layer before the first one is taken out
            self.merge_adapter(adapter_names, safe_merge=safe_merge)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="All adapters are already merged")
            warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
            self._owners = Owners(self.model)
            try:
                model: Any = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
            finally:
                self.__dict__.pop("_owners")  # or what was replaced would live on
        unseat_idle(model)
        unfollow(model)
        if hasattr(model, HOME):
            delattr(model, HOME)
        if merge:
            untie(model)
        return model

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand ``adapter_names`` of a mixed batch down to the layers."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names works at inference only; call model.eval() first")
        if any(isinstance(method, OnBlock) for layer in layers(self.model) for method in layer.methods.values()):
            raise ValueError("adapter_names picks an adapter for each sample, and one of these sits on whole blocks")
        if read := [m.path for m in layers(self.model) if m.methods and (m.followers or getattr(m, "only", False))]:
            raise ValueError(
                f"adapter_names picks an adapter for each sample, and phi(W) of {few(read)} is read for all of them"
            )
        unknown = sorted(set(names) - {BASE} - set(self.peft_config))
        if unknown:
            raise ValueError(f"adapter_names holds unknown adapters {unknown}; loaded are {sorted(self.peft_config)}")
        with routed(self.model, names, copies(self.model, kwargs)):
            yield
