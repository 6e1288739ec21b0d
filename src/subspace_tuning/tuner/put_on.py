"""A method put on a model, or one sentence that says why it finds no seat there."""

from __future__ import annotations

import warnings
from typing import Any, cast

from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.names import Names, Unmatched
from subspace_tuning.tuner.patterns import Patterns
from subspace_tuning.weights import is_linear


def put_on(model: PreTrainedModel, config: SubspaceConfig) -> PeftModel:
    """The model with the parameters of a method.

    Raises BadInput where the method finds no seat, or what the config names is not there.
    """
    given = config.target_modules
    Patterns(config).try_on(Names(model, config).modules)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Unmatched)
            return cast(PeftModel, get_peft_model(model, config.handed_over()))
    except Unmatched as warning:
        raise BadInput(str(warning)) from None
    except (ValueError, TypeError, NotImplementedError) as error:
        if "No modules were targeted" not in str(error) and "not found in the base model" not in str(error):
            raise BadInput(str(error)) from error
        some = [name for name, module in model.named_modules() if is_linear(module)]
        raise BadInput(
            f"target_modules={_plain(given)} with exclude_modules={_plain(config.exclude_modules)} matches no module "
            f"of {type(model).__name__}; name some of its modules, which are called like {some[0]!r}"
        ) from error


def _plain(names: Any) -> Any:
    return sorted(names) if isinstance(names, set) else names
