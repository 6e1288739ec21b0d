"""A method put on a model, or one sentence that says why it finds no seat there."""

from __future__ import annotations

from typing import Any, cast

from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.config import SubspaceConfig


def put_on(model: PreTrainedModel, config: SubspaceConfig) -> PeftModel:
    """The model with the parameters of a method. Raises BadInput where the method finds no seat."""
    given = config.target_modules
    try:
        return cast(PeftModel, get_peft_model(model, config.handed_over()))
    except (ValueError, TypeError, NotImplementedError) as error:
        if "No modules were targeted" not in str(error) and "not found in the base model" not in str(error):
            raise BadInput(str(error)) from error
        some = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        raise BadInput(
            f"target_modules={_plain(given)} with exclude_modules={_plain(config.exclude_modules)} matches no module "
            f"of {type(model).__name__}; name some of its modules, which are called like {some[0]!r}"
        ) from error


def _plain(names: Any) -> Any:
    return sorted(names) if isinstance(names, set) else names
