"""Who is timed: the floor, full fine-tuning, our methods, and PEFT's implementation of those that it has."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft import get_peft_model
from torch import Tensor, nn

from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.method import Method
from subspace_tuning.method.mpc import constrain
from subspace_tuning.method.registry import METHODS, build
from subspace_tuning.tuner.config import SubspaceConfig

FLOOR, FULL = "floor", "full"
VERA_RANK = 256  # both ours and PEFT's


@dataclass
class Contender:
    """A model ready to take training steps."""

    name: str
    source: str  # floor | full | ours | peft
    model: nn.Module
    trained: list[nn.Parameter]
    startup_seconds: float

    @property
    def label(self) -> str:
        return f"{self.name} ({self.source})" if self.source == "peft" else self.name

    @property
    def adapter_bytes(self) -> int:
        """Bytes on disk of what is saved of it."""
        if self.source == FLOOR:
            return 0
        if self.source == FULL:
            return sum(p.numel() * p.element_size() for p in self.trained)
        with TemporaryDirectory() as folder:
            self.model.save_pretrained(folder, save_embedding_layers=False)  # type: ignore[operator]
            return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def make(name: str, source: str, base: nn.Module, rank: int = 8, modules: list[str] | None = None) -> Contender:
    """The contender with that name on (a view of) the base model, whose frozen parameters all contenders share."""
    started = time.perf_counter()
    if source == FULL:
        model = copy.deepcopy(base).requires_grad_(True)
    else:
        model = frozen_twin(base)
        if source == FLOOR:
            force_gradient_to_first_block(model)
        elif source == "ours":
            model = get_peft_model(model, our_config(name, rank, modules))  # type: ignore[arg-type]
        else:
            model = get_peft_model(model, PEERS[name](rank, modules or _ours(name, model)))  # type: ignore[arg-type]
    trained = [p for p in model.parameters() if p.requires_grad]
    return Contender(name, source, model.train(), trained, time.perf_counter() - started)


def our_config(name: str, rank: int, modules: list[str] | None) -> SubspaceConfig:
    """Our config for a contender's name: a method, ``a|b``, or either with ``+mpc_o``. Raises BadInput for others."""
    plain, _, pattern = name.partition("+mpc_")
    values: dict[str, Any] = {}
    known = {f.name for part in plain.split("|") for f in fields(METHODS.get(part, Method))}
    if "r" in known:
        values["r"] = VERA_RANK if plain == "vera" else rank
    with as_bad_input():
        method = build(plain, values)
        constrain(method, pattern or None)
    return SubspaceConfig(method=method, mpc=pattern or None, target_modules=modules)


def frozen_twin(model: nn.Module) -> nn.Module:
    """A copy of the module tree over the same numbers, none of which is trained."""
    memo: dict[int, Any] = {id(t): t for t in model.buffers()}
    memo |= {id(p): nn.Parameter(p.detach(), False) if p.requires_grad else p for p in model.parameters()}
    return copy.deepcopy(model, memo)


def force_gradient_to_first_block(model: nn.Module) -> None:
    """Make the output of the embeddings require a gradient, with nothing trained."""

    def require(module: nn.Module, args: Any, output: Any) -> Any:
        return output.requires_grad_(True) if isinstance(output, Tensor) else output

    embeddings = next((m for n, m in model.named_modules() if n.rpartition(".")[2] == "embeddings"), None)
    (embeddings or model.get_input_embeddings()).register_forward_hook(require)  # type: ignore[operator]


def _ours(name: str, model: nn.Module) -> list[str]:
    """The modules that our method of that name takes, so that both change the same weights."""
    from subspace_tuning.tuner.targets import default_targets

    return sorted(default_targets(METHODS[name].places, model))


def _lora(rank: int, modules: list[str], **values: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=16, target_modules=modules, **values)


def _ia3(rank: int, modules: list[str]) -> Any:
    from peft import IA3Config

    return IA3Config(target_modules=modules, feedforward_modules=[])


def _of(class_name: str, **fixed: Any) -> Callable[[int, list[str]], Any]:
    """A PEFT config by name, its rank under whatever name the class gives it."""

    def config(rank: int, modules: list[str]) -> Any:
        import peft

        cls = getattr(peft, class_name)
        values = {**fixed}
        if "r" in inspect.signature(cls).parameters and "r" not in values:
            values["r"] = rank
        return cls(target_modules=modules, **values)

    return config


PEERS: dict[str, Callable[[int, list[str]], Any]] = {
    "lora": _lora,
    "dora": lambda rank, modules: _lora(rank, modules, use_dora=True),
    "pissa": lambda rank, modules: _lora(rank, modules, init_lora_weights="pissa_niter_4"),
    "ia3": _ia3,
    "vera": _of("VeraConfig", r=VERA_RANK),
    "adalora": lambda rank, modules: _of("AdaLoraConfig", init_r=rank, total_step=1_000_000)(rank, modules),
    "loha": _of("LoHaConfig"),
    "lokr": _of("LoKrConfig"),
    "oft": _of("OFTConfig", oft_block_size=32, r=0),
    "hira": _of("HiraConfig"),
    "randlora": _of("RandLoraConfig", r=32),
    "c3a": _of("C3AConfig", block_size=128),
    "miss": _of("MissConfig"),
    "gralora": _of("GraloraConfig"),
    "fourierft": _of("FourierFTConfig"),
    "waveft": _of("WaveFTConfig", n_frequency=1000),
    "shira": _of("ShiraConfig"),
}


def has_peer(name: str) -> bool:
    """Whether the installed PEFT has the method."""
    import peft

    needs = {"hira": "HiraConfig", "randlora": "RandLoraConfig", "oft": "OFTConfig"}.get(name)
    return name in PEERS and (needs is None or hasattr(peft, needs))


def source_of(name: str, peer: bool) -> str:
    """Whose implementation a contender's name means. Raises BadInput where PEFT has none."""
    if peer and not has_peer(name):
        raise BadInput(f"PEFT has no {name}, or none that is compared here; leave out --peer")
    return name if name in (FLOOR, FULL) else "peft" if peer else "ours"
