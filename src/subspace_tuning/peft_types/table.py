"""The types of PEFT's that equal one of ours: what their fields mean, how their weights are called and laid out.

LORA, ADALORA, IA3 and VERA; those with structured products are in structured.py, those with few numbers laid out in a
pattern in patterned.py, those that turn W in rotations.py, those that are read as a LoRA alone in as_lora.py. (IA)3
scales a module's output, bias included, which is ``ia3_output``; ``ia3`` and SSL equal it where what is written
computes the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.method import Method
from subspace_tuning.method.registry import build
from subspace_tuning.methods import IA3 as IA3Method
from subspace_tuning.methods import SSL, AdaLoRA, DoRA, IA3Output, KaSA, LoRA, VeRA
from subspace_tuning.methods.extend.starts import STARTS
from subspace_tuning.methods.projections import projection_pair
from subspace_tuning.peft_types.as_lora import AS_LORA
from subspace_tuning.peft_types.kind import Kind, Source, Unequal, back, ranks, scales
from subspace_tuning.peft_types.patterned import PATTERNED
from subspace_tuning.peft_types.rotations import ROTATIONS
from subspace_tuning.peft_types.structured import STRUCTURED


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
    if (kasa := config.get("kasa_config")) is not None:
        made = _kasa(kasa, values)
    else:
        made = (DoRA if config.get("use_dora") else LoRA)(**values, init=SUBTRACTED.get(start, "kaiming"))
    patterns = {key: dict(config.get(key) or {}) for key in ("rank_pattern", "alpha_pattern")}
    return {"method": made, **patterns}


def _kasa(said: Any, values: dict[str, Any]) -> Method:
    if not isinstance(said, Mapping) or set(said) - {"beta", "gamma"}:
        raise BadInput(f"kasa_config has beta and gamma, got {said!r}")
    with as_bad_input():
        return build(KaSA.name, {**values, **said})


def _whole(method: Method) -> dict[str, str]:
    """What is trained here is how far factors are from where they start, and magnitudes from the norms of W."""
    factors = {"A": "whole_A", "B": "whole_B"} if getattr(method, "init", "") in STARTS else {}
    return factors | ({"delta": "m"} if isinstance(method, DoRA) else {})


FACTORS = {"lora_A": "A", "lora_B": "B", "lora_embedding_A": "A", "lora_embedding_B": "B"}


def _as_lora(methods: Mapping[str, Any]) -> dict[str, Any]:
    """Scales are written as alpha / r, whether or not they came about so."""
    kinds = {type(method) for method in methods.values()}
    if len(kinds) > 1 or any(getattr(m, "init", "kaiming") != "kaiming" for m in methods.values()):
        raise Unequal("PEFT's LORA takes its start off the base weight as it loads, where it takes it off at all")
    r, rank_pattern = ranks(methods)
    alpha, alpha_pattern = scales(methods, lambda method: method.s * method.r)
    values = {"r": r, "lora_alpha": alpha, "rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern}
    first = next(iter(methods.values()))
    values |= {"use_dora": kinds == {DoRA}, "lora_dropout": first.dropout}
    return values | ({"kasa_config": {"beta": first.beta, "gamma": first.gamma}} if kinds == {KaSA} else {})


LORA = Kind(
    "LORA",
    _lora,
    frozenset(
        {"r", "lora_alpha", "use_rslora", "use_dora", "lora_dropout", "rank_pattern", "alpha_pattern"}
        | {"init_lora_weights", "eva_config", "lora_ga_config", "corda_config", "megatron_core", "target_parameters"}
        | {"kasa_config"}
    ),
    {**FACTORS, "lora_magnitude_vector": "delta", "lora_diag": "d"},
    "lora_",
    _transposed,
    (LoRA, DoRA, KaSA),
    _as_lora,
    back,
    whole=_whole,
)


def _adalora(source: Source) -> dict[str, Any]:
    """Ranks that were given up stay in the shapes, as zeros."""
    config = source.config
    method = AdaLoRA(
        r=min(config["target_r"], config["init_r"]),
        init_r=config["init_r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout", 0.0),
        tinit=config["tinit"],
        tfinal=config["tfinal"],
        delta_t=config["deltaT"],
        beta1=config["beta1"],
        beta2=config["beta2"],
        orthogonality=config["orth_reg_weight"],
    )
    return {"method": method}


def _widened(name: str, t: Tensor, method: Method) -> Tensor:
    t = _transposed(name, t, method)
    r = cast(AdaLoRA, method).init_r
    if name == "d":
        return pad(t, (0, r - len(t))) * (r / (r + 1e-5))  # PEFT divides alpha by that much more than r
    return pad(t, (0, r - t.shape[1])) if name == "A" else pad(t, (0, 0, 0, r - t.shape[0]))


def _as_adalora(methods: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(methods.values()))
    if any(method != first for method in methods.values()):
        raise Unequal("PEFT's ADALORA starts with one rank and one scale for all modules")
    values = {"init_r": first.init_r, "target_r": first.r, "lora_alpha": first.s * first.init_r}
    steps = {"total_step": 1 << 20, "tinit": 0, "tfinal": 0, "deltaT": first.delta_t}
    return {**values, **steps, "beta1": first.beta1, "beta2": first.beta2, "orth_reg_weight": first.orthogonality}


def _narrowed(name: str, t: Tensor, method: Method) -> Tensor:
    r = cast(AdaLoRA, method).init_r
    return t * ((r + 1e-5) / r) if name == "d" else back(name, t, method)


ADALORA = Kind(
    "ADALORA",
    _adalora,
    frozenset(
        {"r", "init_r", "target_r", "lora_alpha", "lora_dropout", "tinit", "tfinal", "deltaT", "beta1", "beta2"}
        | {"orth_reg_weight", "total_step", "rank_pattern", "init_lora_weights", "megatron_core"}
    ),
    {**FACTORS, "lora_E": "d"},
    "lora_",
    _widened,
    (AdaLoRA,),
    _as_adalora,
    _narrowed,
    frozenset({"ranknum"}),
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
    across = 0 if isinstance(method, SSL) else 1
    if t.dim() == 2 and t.shape[across] != 1:
        raise ValueError(f"{name} is {tuple(t.shape)} where PEFT has {('(1, n)', '(m, 1)')[across]}; is it transposed?")
    return t.flatten() - 1


def _from_one(name: str, t: Tensor, method: Method) -> Tensor:
    return 1 + t


def _as_ia3(methods: Mapping[str, Any]) -> dict[str, Any]:
    return {"feedforward_modules": sorted(name for name, method in methods.items() if isinstance(method, SSL))}


IA3 = Kind(
    "IA3",
    _ia3,
    frozenset({"feedforward_modules", "init_ia3_weights"}),
    {"ia3_l": "delta"},
    "ia3_",
    _scales,
    (IA3Output, IA3Method, SSL),
    _as_ia3,
    _from_one,
)

SHARED_A, SHARED_B = "base_model.vera_A", "base_model.vera_B"


def _vera(source: Source) -> dict[str, Any]:
    """PEFT draws one pair of projections from the key, of the largest sizes; every layer cuts its own out of them."""
    config, weights = source
    if weights is None:
        raise BadInput("the sizes of VeRA's projections stand in the weights alone; give the adapter's folder")
    held = [[t for key, t in weights.items() if key.startswith(name)] for name in (SHARED_A, SHARED_B)]
    if not all(held):
        raise BadInput(
            "the adapter was saved with save_projection=False, and the sizes of its projections cannot be told from "
            "what is left; load it in PEFT and save it with save_projection=True"
        )
    A, B = held[0][0], held[1][0]
    if A.dim() != 2 or B.dim() != 2:
        raise BadInput(f"the projections of this VeRA adapter are matrices, got {tuple(A.shape)} and {tuple(B.shape)}")
    key, cut_n, cut_m = config["projection_prng_key"], A.shape[1], B.shape[0]
    if A.shape[0] != B.shape[1]:
        raise BadInput("the projections of this VeRA adapter have two different ranks")
    drawn = projection_pair(key, cut_n, cut_m, A.shape[0], torch.empty(0))
    if not all(torch.allclose(t, d.T.to(t), rtol=1e-2) for t, d in zip((A, B), drawn, strict=True)):
        raise BadInput("the projections of this VeRA adapter do not follow from its projection_prng_key")
    d_initial = config.get("d_initial", 0.1)
    return {"method": VeRA(r=config["r"], d_initial=d_initial, seed=key, cut_n=cut_n, cut_m=cut_m)}


def _as_vera(methods: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(methods.values()))
    if any(method != first for method in methods.values()) or not first.cut_n:
        raise Unequal(
            "PEFT's VERA cuts the projections of all modules out of one pair of the largest sizes; here each shape has "
            "its own, unless VeRA's cut_n and cut_m give these sizes"
        )
    return {"r": first.r, "d_initial": first.d_initial, "projection_prng_key": first.seed}


def _apart(name: str, t: Tensor, method: Method) -> Tensor:
    return t - cast(VeRA, method).d_initial if name == "delta" else t


def _from_d_initial(name: str, t: Tensor, method: Method) -> Tensor:
    return t + cast(VeRA, method).d_initial if name == "delta" else t


VERA = Kind(
    "VERA",
    _vera,
    frozenset({"r", "d_initial", "projection_prng_key", "save_projection", "init_weights", "vera_dropout"}),
    {"vera_lambda_d": "delta", "vera_lambda_b": "b"},
    "vera_",
    _apart,
    (VeRA,),
    _as_vera,
    _from_d_initial,
    frozenset({"vera_A", "vera_B"}),
)

KINDS = {kind.peft_type: kind for kind in (LORA, ADALORA, IA3, VERA, *STRUCTURED, *PATTERNED, *ROTATIONS, *AS_LORA)}
