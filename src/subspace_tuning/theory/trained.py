"""A model as training found it and what training made of it, layer by layer: only the one looked at is in memory.

From an adapter (a run's, ours, PEFT's), or from a fully fine-tuned checkpoint beside its base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subspace_tuning.convert.change import Change, exact
from subspace_tuning.convert.layers import answers_with, change_of, changes_of, frozen_weights
from subspace_tuning.convert.probe import answers, probe
from subspace_tuning.convert.source import Source, find_tokenizer, is_adapter, load_base, opened
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.files.assets import location
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.named import Named
from subspace_tuning.run.skeleton import skeleton
from subspace_tuning.theory.places import shared
from subspace_tuning.theory.touched import NAME, touched

Logits = list[Tensor]


class Layer(NamedTuple):
    """One layer, before and after."""

    W: Tensor  # (n, m), in double precision
    change: Change
    factors: tuple[Tensor, Tensor] | None = None  # A (n, r), B (r, m) where the method has them


class Answers(NamedTuple):
    """What the models say to probe inputs; one whole model is in memory at a time."""

    base: Callable[[], Logits]  # with the head as trained
    trained: Callable[[Mapping[str, Change]], Logits]  # with these further changes of its weights


@dataclass(frozen=True)
class Trained:
    """The layers that training may have changed, by the names of their modules."""

    base: str
    methods: list[str]
    names: list[str]
    read: Callable[[str], Layer | None]  # None where there is no matrix, or none that changed
    answers: Callable[[], Answers] | None  # None for bare tensors, which are no model
    left_out: list[str] = field(default_factory=list)  # tensors that changed and are no weight with rows and columns


@contextmanager
def trained(given: Path | str, base: str | None = None) -> Iterator[Trained]:
    """Read a run, an adapter (PEFT's too) or a fine-tuned checkpoint, which needs its base named."""
    path = Path(given)
    if is_adapter(path):
        yield _by_adapter(opened(path, base))
        return
    if (path / "config.yaml").is_file():
        run = RunFolder(path)
        path, base = run.weights(), base or run.recipe().model
    if base is None:
        raise BadInput(f"{given} is a whole model: say with --base what it was fine-tuned from")
    yield _in_full(str(path) if path.is_dir() else str(given), base)


def _by_adapter(source: Source) -> Trained:
    held = touched(source.adapter, Checkpoint(source.base))

    @torch.no_grad()
    def read(name: str) -> Layer | None:
        layer = held[name].layer()
        change = change_of(name, layer, [NAME])
        if change.dW is None or not len(change.svd.S):
            return None
        return Layer(
            exact(layer.frozen.dense()), change, _factors(layer.methods[NAME].whole(layer.params(NAME))._values)
        )

    def answering() -> Answers:
        model = source.load()
        frozen = frozen_weights(model)
        changes, inputs = changes_of(model, model.active_adapters), probe(model, source.tokenizer)

        def trained_with(further: Mapping[str, Change]) -> Logits:
            return answers_with(model, frozen, changes | {k: changes[k] + more for k, more in further.items()}, inputs)

        return Answers(lambda: answers_with(model, frozen, {}, inputs), trained_with)

    methods = sorted({seat.method.describe() for seat in held.values()})
    return Trained(source.base, methods, list(held), read, answering)


def _in_full(name: str, base: str) -> Trained:
    before, after = Checkpoint(base), Checkpoint(name)
    both = shared(before, after, "")
    places = {place.name: place for place in both.places}

    @torch.no_grad()
    def read(name: str) -> Layer | None:
        place = places[name]
        W = exact(place.read(both.base).dense())
        dW = exact(place.read(both.tuned).dense()) - W
        return Layer(W, Change(dW)) if dW.any() else None

    def answering() -> Answers:
        inputs = probe(skeleton(after), find_tokenizer(name) or find_tokenizer(base))

        @cache
        def fine() -> Any:
            return load_base(name).eval()

        def trained_with(further: Mapping[str, Change]) -> Logits:
            frozen = {k: places[k].of(fine()) for k in further}
            return answers_with(fine(), frozen, further, inputs)

        return Answers(lambda: answers(_base_of(before, after), inputs), trained_with)

    said = answering if "model_type" in (after.config() or {}) else None
    return Trained(base, ["full"], list(places), read, said, both.left_out)


@torch.no_grad()
def _base_of(before: Checkpoint, after: Checkpoint) -> Any:
    """The base model in the form of the fine-tuned one; what it lacks, a head, comes from there."""
    like: Any = skeleton(after)
    with as_bad_input((OSError, ValueError, RuntimeError)):
        model, info = type(like).from_pretrained(
            location(before.name),
            config=like.config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    own, held = dict(model.named_parameters()), Named(after, model)
    for name in {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])} & set(own):
        if name in held:
            own[name].copy_(held.read(name))
    return model


def _factors(values: Any) -> tuple[Tensor, Tensor] | None:
    """The last A and B of a method, or of a composition, that fit each other."""
    for key in reversed([key for key in values if key == "A" or key.endswith("_A")]):
        A, B = values[key].now(), values.get(key[:-1] + "B")
        B = None if B is None else B.now()
        if B is not None and A.dim() == B.dim() == 2 and A.shape[1] == B.shape[0]:
            return exact(A), exact(B)
    return None
