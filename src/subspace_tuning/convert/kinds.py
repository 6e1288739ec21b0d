"""The types of PEFT's that can be imported: what their fields mean here, and how their weights are called and laid out.

PEFT holds factors as torch holds weights, (out, in); ours are written as in the equations, (in, out). Layers that keep
W the other way round (``fan_in_fan_out``) make no difference to that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from subspace_tuning.errors import BadInput
from subspace_tuning.method import Method
from subspace_tuning.methods import SSL, IA3Output, LoRA

Tensors = Mapping[str, Tensor]


class Source(NamedTuple):
    """An adapter of PEFT's: the plain data of its config, and its weights where they are at hand."""

    config: Mapping[str, Any]
    weights: Tensors | None = None


class Kind(NamedTuple):
    """One of PEFT's types."""

    peft_type: str
    read: Callable[[Source], dict[str, Any]]  # keywords of SubspaceConfig
    fields: frozenset[str]  # that ``read`` looks at, or that only say how training began and went on
    names: Mapping[str, str]  # PEFT's name of a tensor -> ours
    prefix: str  # of the names of PEFT's tensors
    rewrite: Callable[[str, Tensor, Method], Tensor]  # our name, PEFT's tensor, our method at its place -> our tensor


def _transposed(name: str, t: Tensor, method: Method) -> Tensor:
    """(out, in, ...) -> (in ..., out); vectors lie alike."""
    return t.flatten(1).T if name in ("A", "B") else t.flatten()


KEEPS_W = (True, False, "gaussian", "orthogonal", "eva")  # starts that leave the base weight as it is
SUBTRACTED = {"pissa": "pissa", "olora": "orthogonal"}  # starts that PEFT takes off W on loading -> ours


def _lora(source: Source) -> dict[str, Any]:
    config = source.config
    start = config.get("init_lora_weights", True)
    if start not in KEEPS_W and start not in SUBTRACTED:
        raise BadInput(
            f"the adapter began with init_lora_weights={start!r}, which changed the base weight in a way that "
            "the adapter does not tell; save it in PEFT as a plain LoRA first: "
            "model.save_pretrained(folder, path_initial_model_for_weight_conversion=...)"
        )
    values = {
        "r": config["r"],
        "alpha": config["lora_alpha"],
        "rank_stabilized": config.get("use_rslora", False),
        "dropout": config.get("lora_dropout", 0.0),
    }
    method = LoRA(**values, init=SUBTRACTED.get(start, "kaiming"))
    patterns = {key: dict(config.get(key) or {}) for key in ("rank_pattern", "alpha_pattern")}
    return {"method": method, **patterns}


LORA = Kind(
    "LORA",
    _lora,
    frozenset(
        {"r", "lora_alpha", "use_rslora", "lora_dropout", "rank_pattern", "alpha_pattern", "init_lora_weights"}
        | {"eva_config", "lora_ga_config", "corda_config", "megatron_core"}
    ),
    {"lora_A": "A", "lora_B": "B", "lora_embedding_A": "A", "lora_embedding_B": "B"},
    "lora_",
    _transposed,
)


def _ia3(source: Source) -> dict[str, Any]:
    """Scales outputs, biases included; of ``feedforward_modules`` it scales the inputs."""
    inputs = source.config.get("feedforward_modules") or []
    patterns = [f"^(?:{inputs})"] if isinstance(inputs, str) else [f".*{re.escape(name)}" for name in sorted(inputs)]
    return {"method": IA3Output(), "method_pattern": {pattern: SSL() for pattern in patterns}}


def _scales(name: str, t: Tensor, method: Method) -> Tensor:
    if t.dim() > 2 and isinstance(method, SSL):
        raise BadInput(
            "PEFT's (IA)3 scales the channels that enter a convolution, feedforward_modules; ours would scale every "
            "entry of a patch, so this adapter cannot be imported"
        )
    return t.flatten()


IA3 = Kind("IA3", _ia3, frozenset({"feedforward_modules", "init_ia3_weights"}), {"ia3_l": "d"}, "ia3_", _scales)

KINDS = {kind.peft_type: kind for kind in (LORA, IA3)}
