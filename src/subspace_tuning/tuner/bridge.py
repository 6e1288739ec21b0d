"""Registers one type, SUBSPACE, with PEFT, whose list of types is a closed enumeration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
from packaging.version import Version
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

SUPPORTED = (Version("0.21.0"), Version("0.22.0"))  # from, below
NAME = "SUBSPACE"


def check_version(installed: str) -> None:
    """Raise ImportError for a PEFT that the bridge was not written for."""
    low, high = SUPPORTED
    if not low <= Version(Version(installed).base_version) < high:
        raise ImportError(
            f"subspace-tuning plugs into PEFT >= {low}, < {high}, but PEFT {installed} is installed: "
            f"run `pip install 'peft>={low},<{high}'`"
        )


def _member() -> PeftType:
    if NAME in PeftType.__members__:
        return PeftType[NAME]
    member = str.__new__(PeftType, NAME)
    member._name_, member._value_ = NAME, NAME
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)
    return member


check_version(peft.__version__)
SUBSPACE = _member()


def connect(config_cls: type, model_cls: type, guarded: Callable[..., Any]) -> None:
    """Make PEFT build, save and load our adapters; what loads them is guarded first."""
    if SUBSPACE not in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME.lower(), config_cls=config_cls, model_cls=model_cls)
        peft.PeftModel.load_adapter = guarded(peft.PeftModel.load_adapter)  # type: ignore[method-assign]
