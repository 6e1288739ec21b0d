"""A model as training found it and what training made of it: from an adapter, or from a fully fine-tuned checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspace_tuning.convert.change import Change, exact
from subspace_tuning.convert.layers import changes_of, methods_of, seats
from subspace_tuning.convert.source import find_tokenizer, is_adapter, load_base, opened
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.pretrained import location
from subspace_tuning.run_folder import RunFolder
from subspace_tuning.weights import LayerWeight, Unsupported, weight_of


@dataclass(frozen=True)
class Trained:
    """Frozen weights by the names of their modules, and the change of each."""

    base: str
    methods: list[str]
    model: nn.Module  # the base model; heads as trained
    frozen: dict[str, LayerWeight]
    changes: dict[str, Change]
    factors: dict[str, tuple[Tensor, Tensor]]  # A (n, r), B (r, m) where the method has them
    tokenizer: Any

    def W(self, name: str) -> Tensor:
        """W (n, m), in double precision."""
        return exact(self.frozen[name].dense())


@contextmanager
def trained(given: Path | str, base: str | None = None) -> Iterator[Trained]:
    """Read a run, an adapter (PEFT's too) or a fine-tuned checkpoint, which needs its base named."""
    path = Path(given)
    if is_adapter(path):
        with opened(path, base) as source:
            model = source.load()
            held = seats(model)
            frozen = {name: layer.frozen for name, layer in held.items()}
            changes = changes_of(model, model.active_adapters)
            factors = {
                name: pair for name, layer in held.items() if (pair := _factors(layer.params("default")._values))
            }
            yield Trained(source.base, methods_of(model), model, frozen, changes, factors, source.tokenizer)
        return
    if (path / "config.yaml").is_file():
        run = RunFolder(path)
        path, base = run.weights(), base or run.recipe().model
    if base is None:
        raise BadInput(f"{given} is a whole model: say with --base what it was fine-tuned from")
    yield _of_checkpoint(str(path) if path.is_dir() else str(given), base)


def _of_checkpoint(name: str, base: str) -> Trained:
    fine: Any = load_base(name)
    with as_bad_input((OSError, ValueError, RuntimeError)):
        model, info = type(fine).from_pretrained(
            location(base),
            config=fine.config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    unknown = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    own, tuned = dict(model.named_parameters()), dict(fine.named_parameters())
    with torch.no_grad():
        for key in unknown & set(own):
            own[key].copy_(tuned[key])  # a head, which the base does not have
    if len(unknown & set(own)) == len(own):
        raise BadInput(f"{base!r} holds no weight of {name!r}; is it the base model?")
    frozen, changes = {}, {}
    for key, module in model.named_modules():
        if f"{key}.weight" in unknown or getattr(module, "weight", None) is None:
            continue
        try:
            W, W_star = weight_of(module), weight_of(fine.get_submodule(key))
        except Unsupported:
            continue
        change = _between(W, W_star)
        if change is not None:
            frozen[key], changes[key] = W, change
    return Trained(base, ["full"], model.eval(), frozen, changes, {}, find_tokenizer(name) or find_tokenizer(base))


def _between(W: LayerWeight, W_star: LayerWeight) -> Change | None:
    dW = exact(W_star.dense()) - exact(W.dense()) if W.holds_matrix else None
    db = None
    if W.own_bias is not None and W_star.own_bias is not None:
        db = exact(W_star.own_bias) - exact(W.own_bias)
    moved = any(t is not None and bool(t.any()) for t in (dW, db))
    return Change(dW, db) if moved else None


def _factors(values: Any) -> tuple[Tensor, Tensor] | None:
    """The last A and B of a method, or of a composition, that fit each other."""
    for key in reversed([key for key in values if key == "A" or key.endswith("_A")]):
        A, B = values[key].now(), values.get(key[:-1] + "B")
        B = None if B is None else B.now()
        if B is not None and A.dim() == B.dim() == 2 and A.shape[1] == B.shape[0]:
            return exact(A), exact(B)
    return None
