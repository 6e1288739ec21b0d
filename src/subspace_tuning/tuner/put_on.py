"""A method put on a model, or one sentence that says why it finds no seat there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.fused import slices
from subspace_tuning.tuner.patterns import ENDING, KEPT, Patterns
from subspace_tuning.weights import is_linear
from subspace_tuning.weights.experts import with_experts


def put_on(model: PreTrainedModel, config: SubspaceConfig) -> PeftModel:
    """The model with the parameters of a method.

    Raises BadInput where the method finds no seat, or what the config names is not there.
    """
    given = config.target_modules
    names = _Names(model, config)
    Patterns(config).try_on(names.modules)
    try:
        made = cast(PeftModel, get_peft_model(model, config.handed_over()))
    except (ValueError, TypeError, NotImplementedError) as error:
        if "No modules were targeted" not in str(error) and "not found in the base model" not in str(error):
            raise BadInput(str(error)) from error
        some = [name for name, module in model.named_modules() if is_linear(module)]
        raise BadInput(
            f"target_modules={_plain(given)} with exclude_modules={_plain(config.exclude_modules)} matches no module "
            f"of {type(model).__name__}; name some of its modules, which are called like {some[0]!r}"
        ) from error
    if config.method.sits_on != "tokens":
        names.check(getattr(made.base_model, "targeted_module_names", []))
    return made


class _Names:
    """What a config names, as it was given, and the names of a model's modules."""

    def __init__(self, model: nn.Module, config: SubspaceConfig):
        self.modules = [*(name for name, _ in with_experts(model)), *slices(model)]
        self.what = type(model).__name__
        self.targets, self.excluded = _list(config.target_modules), _list(config.exclude_modules)
        self.kept = list(config.modules_to_save or [])
        layers = config.layers_to_transform
        self.layers = [layers] if isinstance(layers, int) else list(layers or [])
        self.patterns = {key: list(getattr(config, key)) for key in ("rank_pattern", "alpha_pattern", "method_pattern")}

    def check(self, seats: Iterable[str]) -> None:
        """Raises BadInput for a name that matches none of the modules that the method sits on (or the model has)."""
        seats = list(seats)
        self._all("target_modules", self.targets, seats, _ends)
        self._all("exclude_modules", self.excluded, self.modules, _ends)
        self._all("modules_to_save", self.kept, self.modules, _matches(KEPT))
        self._all("layers_to_transform", self.layers, seats, lambda layer, name: str(layer) in name.split("."))
        for key, given in self.patterns.items():
            self._all(key, given, seats, _matches(ENDING))

    def _all(self, key: str, given: list[Any], names: list[str], fits: Callable[[Any, str], bool]) -> None:
        lost = [one for one in given if not any(fits(one, name) for name in names)]
        if lost:
            some = names[-1] if names else ""
            where = (
                f"module of {self.what}" if names is self.modules else f"of the modules of {self.what} that are adapted"
            )
            raise BadInput(
                f"{key}: {', '.join(map(repr, lost))} matches no {where}, which are called like {some!r}; "
                "correct or remove it"
            )


def _list(names: Any) -> list[str]:
    """Names one by one; none where one expression says them all."""
    return [] if names is None or isinstance(names, str) else sorted(names)


def _ends(given: str, name: str) -> bool:
    return name == given or name.endswith(f".{given}")


def _matches(form: str) -> Callable[[str, str], bool]:
    return lambda given, name: re.match(form.format(given), name) is not None


def _plain(names: Any) -> Any:
    return sorted(names) if isinstance(names, set) else names
