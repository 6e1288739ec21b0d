"""C3A, MISS, GRALORA, FOURIERFT, WAVEFT: the types of PEFT's whose change of W is few numbers laid out in a pattern."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from subspace_tuning.errors import BadInput
from subspace_tuning.method import Method
from subspace_tuning.methods import C3A, FourierFT, GraLoRA, MiSS, WaveFT
from subspace_tuning.peft_types.kind import Kind, Source, Unequal, ranks, scales


def _alike(name: str, t: Tensor, method: Method) -> Tensor:
    return t


def _outer_swapped(name: str, t: Tensor, method: Method) -> Tensor:
    """Blocks (out, in, ...) -> (in, out, ...), and back."""
    return t.transpose(0, 1) if t.dim() > 1 else t


def _by_module(method: Method, field: str, pattern: Mapping[str, int] | None) -> dict[str, Any]:
    """The method, and its variants with another number in a field."""
    return {
        "method": method,
        "method_pattern": {k: method.with_fields(**{field: v}) for k, v in (pattern or {}).items()},
    }


def _one(methods: Mapping[str, Any], of: Callable[[Any], Any], what: str) -> Any:
    """What all modules have. Raises Unequal where they differ."""
    found = {of(method) for method in methods.values()}
    if len(found) > 1:
        raise Unequal(f"PEFT has one {what} for all modules")
    return found.pop()


def _c3a(source: Source) -> dict[str, Any]:
    return _by_module(C3A(b=source.config["block_size"]), "b", source.config.get("block_size_pattern"))


def _as_c3a(methods: Mapping[str, Any]) -> dict[str, Any]:
    b, pattern = scales(methods, lambda method: method.b)
    return {"block_size": b, "block_size_pattern": pattern}


C3A_KIND = Kind(
    "C3A",
    _c3a,
    frozenset({"block_size", "block_size_pattern", "init_weights"}),
    {"c3a_kernel": "w"},
    "c3a_",
    _outer_swapped,
    (C3A,),
    _as_c3a,
    _outer_swapped,
    layers=(nn.Linear,),
)


def _miss(source: Source) -> dict[str, Any]:
    if (variant := source.config.get("init_weights", True)) in ("bat", "mini"):
        raise BadInput(
            f"the adapter was made with init_weights={variant!r}, another equation than MiSS; it cannot be read"
        )
    return {"method": MiSS(r=source.config["r"])}


def _as_miss(methods: Mapping[str, Any]) -> dict[str, Any]:
    r, others = ranks(methods)
    if others:
        raise Unequal("PEFT's MISS has one rank for all modules")
    return {"r": r}


MISS = Kind(
    "MISS",
    _miss,
    frozenset({"r", "miss_dropout", "mini_r", "init_weights"}),
    {"miss_block": "D"},
    "miss_",
    _alike,
    (MiSS,),
    _as_miss,
    _alike,
    layers=(nn.Linear,),
)


def _gralora(source: Source) -> dict[str, Any]:
    config = source.config
    return {"method": GraLoRA(r=config["r"], alpha=config["alpha"], blocks=config["gralora_k"])}


def _as_gralora(methods: Mapping[str, Any]) -> dict[str, Any]:
    r, alpha, blocks = _one(
        methods, lambda method: (method.r, method.alpha, method.blocks), "rank and number of blocks"
    )
    return {"r": r, "alpha": alpha, "gralora_k": blocks}


GRALORA = Kind(
    "GRALORA",
    _gralora,
    frozenset({"r", "alpha", "gralora_k", "gralora_dropout", "init_weights"}),
    {"gralora_A": "A", "gralora_B": "B"},
    "gralora_",
    _alike,
    (GraLoRA,),
    _as_gralora,
    _alike,
)


def _seeded(method: type[FourierFT | WaveFT]) -> Callable[[Source], dict[str, Any]]:
    def read(source: Source) -> dict[str, Any]:
        config = source.config
        if config["random_loc_seed"] is None:
            raise BadInput("the adapter was made with random_loc_seed=None: where its frequencies are is not known")
        if config.get("wavelet_family", "db1") != "db1" or not config.get("use_idwt", True):
            raise BadInput(
                "the adapter was made with another wavelet_family than 'db1', or without it; it cannot be read"
            )
        made = method(frequencies=config["n_frequency"], alpha=config["scaling"], seed=config["random_loc_seed"])
        return _by_module(made, "frequencies", config.get("n_frequency_pattern"))

    return read


def _as_seeded(methods: Mapping[str, Any]) -> dict[str, Any]:
    alpha, seed = _one(methods, lambda method: (method.alpha, method.seed), "scale and seed")
    count, pattern = scales(methods, lambda method: method.frequencies)
    return {"n_frequency": count, "n_frequency_pattern": pattern, "scaling": alpha, "random_loc_seed": seed}


SEEDED = frozenset({"n_frequency", "n_frequency_pattern", "scaling", "random_loc_seed", "init_weights"})
FOURIERFT = Kind(
    "FOURIERFT",
    _seeded(FourierFT),
    SEEDED,
    {"fourierft_spectrum": "c"},
    "fourierft_",
    _alike,
    (FourierFT,),
    _as_seeded,
    _alike,
)
WAVEFT = Kind(
    "WAVEFT",
    _seeded(WaveFT),
    SEEDED | {"wavelet_family", "use_idwt"},
    {"waveft_spectrum": "c"},
    "waveft_",
    _alike,
    (WaveFT,),
    _as_seeded,
    _alike,
)
PATTERNED = (C3A_KIND, MISS, GRALORA, FOURIERFT, WAVEFT)
